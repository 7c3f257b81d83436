"""The record: every use, refusal and change, on the disk before it takes effect, in a chain that shows tampering."""

from .record import Record as Record
from .verify import Verdict as Verdict, verify as verify
