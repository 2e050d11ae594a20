"""The zoo: bugs planted on purpose, to show that trials find them. `netfs trial zoo` hunts them all.

`bug.py` says what one is and is all that a trial loads; `hunt.py` looks for them.
"""

from trials.zoo.bug import BUGS, Bug, bugs, planted

__all__ = ["BUGS", "Bug", "bugs", "planted"]
