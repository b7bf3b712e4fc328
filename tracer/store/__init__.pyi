__all__ = [
    "ARM_COORDINATES",
    "LEASE",
    "RECORDS",
    "RUN",
    "STATUS_COMPLETE",
    "STATUS_FAILED",
    "STATUS_MISSING",
    "STATUS_UNASKED",
    "SWEEP",
    "TOKEN_KINDS",
    "ClaimError",
    "CompleteError",
    "Coordinate",
    "Record",
    "Repair",
    "RepairError",
    "RunError",
    "RunInfo",
    "Schema",
    "SweepInfo",
    "TakenError",
    "UnitBuffer",
    "Variable",
    "Verification",
    "WriteError",
    "Writer",
    "alone",
    "at_free_folder",
    "check_resume",
    "check_space",
    "config_hash",
    "create",
    "estimate_bytes",
    "finalize",
    "free_folder",
    "free_space",
    "latest_folder",
    "latest_run",
    "latest_sweep",
    "list_runs",
    "list_sweeps",
    "local",
    "locate",
    "make_free_folder",
    "mend",
    "open_run",
    "open_sweep",
    "place",
    "provenance",
    "read_config",
    "read_scores",
    "readable",
    "repair",
    "say_waiting",
    "settle",
    "share",
    "variables",
    "verify",
    "with_brought",
    "write_scores",
]

from .arms import ARM_COORDINATES as ARM_COORDINATES
from .arms import Coordinate as Coordinate
from .claims import LEASE as LEASE
from .claims import ClaimError as ClaimError
from .config import check_resume as check_resume
from .config import read_config as read_config
from .create import create as create
from .find import RunInfo as RunInfo
from .find import SweepInfo as SweepInfo
from .find import latest_run as latest_run
from .find import latest_sweep as latest_sweep
from .find import list_runs as list_runs
from .find import list_sweeps as list_sweeps
from .find import locate as locate
from .folders import TakenError as TakenError
from .folders import at_free_folder as at_free_folder
from .folders import free_folder as free_folder
from .folders import latest_folder as latest_folder
from .folders import make_free_folder as make_free_folder
from .provenance import provenance as provenance
from .reader import open_run as open_run
from .reader import open_sweep as open_sweep
from .records import RECORDS as RECORDS
from .records import TOKEN_KINDS as TOKEN_KINDS
from .records import Record as Record
from .records import variables as variables
from .records import with_brought as with_brought
from .remote import local as local
from .remote import place as place
from .remote import readable as readable
from .repairs import Repair as Repair
from .repairs import RepairError as RepairError
from .repairs import finalize as finalize
from .repairs import mend as mend
from .repairs import repair as repair
from .schema import RUN as RUN
from .schema import STATUS_COMPLETE as STATUS_COMPLETE
from .schema import STATUS_FAILED as STATUS_FAILED
from .schema import STATUS_MISSING as STATUS_MISSING
from .schema import STATUS_UNASKED as STATUS_UNASKED
from .schema import SWEEP as SWEEP
from .schema import RunError as RunError
from .schema import Schema as Schema
from .schema import Variable as Variable
from .schema import estimate_bytes as estimate_bytes
from .scores import read_scores as read_scores
from .scores import write_scores as write_scores
from .seals import config_hash as config_hash
from .sharing import alone as alone
from .sharing import say_waiting as say_waiting
from .sharing import settle as settle
from .sharing import share as share
from .space import check_space as check_space
from .space import free_space as free_space
from .unit import UnitBuffer as UnitBuffer
from .verification import Verification as Verification
from .verification import verify as verify
from .writer import CompleteError as CompleteError
from .writer import WriteError as WriteError
from .writer import Writer as Writer
