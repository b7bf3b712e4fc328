"""The public face of `tracer`: what is listed is there, has a signature, and costs nothing before it is used."""

import inspect
import subprocess
import sys

import pytest

import tracer
import tracer.denoisers
import tracer.samplers

FACES = [tracer, tracer.samplers, tracer.denoisers]


@pytest.mark.parametrize("package", FACES, ids=lambda package: package.__name__)
def test_every_public_name_is_there_and_listed(package):
    assert sorted(package.__all__) == sorted(dir(package))
    for name in package.__all__:
        item = getattr(package, name)
        if inspect.isfunction(item) or inspect.isclass(item):
            assert item.__doc__, name
    assert not hasattr(package, "nothing_of_the_kind")


@pytest.mark.parametrize("name", ["trace", "load", "open_run"])
def test_functions_show_their_parameters(name):
    parameters = inspect.signature(getattr(tracer, name)).parameters.values()
    assert parameters
    assert not any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters)


def test_packages_registries_and_the_request_import_nothing_heavy():
    code = (
        "import sys, tracer, tracer.samplers, tracer.denoisers; tracer.Request(); list(tracer.MODELS); "
        "list(tracer.SAMPLERS); print(sorted({'torch', 'xarray', 'zarr', 'diffusers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
