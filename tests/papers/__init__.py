"""What the recipes of both papers need at `--scale paper`, in the real formats, with random weights and tiny pictures.

`checkpoints` are folders as diffusers writes them, `data` the layouts of ImageNet, COCO and GenEval, `networks` what
timm, open_clip and the metrics load. `python -m tests.papers OUT` writes all of it and says how `trace reproduce` is
told; `python -m tests.papers OUT NAME ...` rehearses recipes with it. Numbers that come of it mean nothing.
"""
