"""Seeded runs of whole systems under a virtual clock."""

from trials.sim.clock import Deadlock, Endless
from trials.sim.fences import EscapedSimulation
from trials.sim.install import Outcome, install, run, settled
from trials.sim.internals import UnknownTrio
from trials.sim.world import SimWorld

__all__ = ["Deadlock", "Endless", "EscapedSimulation", "Outcome", "SimWorld", "UnknownTrio", "install", "run", "settled"]
