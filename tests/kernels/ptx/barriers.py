"""Barriers of warps, blocks and clusters: threads park until all of the group have come."""

import numpy as np

from .errors import BarrierMisuse
from .races import SCOPES, Released


class Barriers:
    def __init__(self, machine):
        self.machine = machine
        self.at = np.full(machine.threads, -1)  # the segment in which a thread waits
        self.votes = np.zeros(machine.threads, bool)
        self.result = np.full(machine.threads, -1)  # the register that gets the vote's result
        self.arrived = np.zeros(machine.threads, bool)  # at the cluster's barrier, not yet through
        self.aligned = np.zeros(
            machine.threads, bool
        )  # whether it waits there by an aligned instruction
        clusters = machine.blocks // machine.cluster_size
        self.released = [Released(machine) for _ in range(clusters)]

    def vote(self, threads, barrier, votes, operation, result, segment):
        """bar.red: a bar.sync that also tells whether any thread, or all of them, voted for something."""
        self.votes[threads] = votes == (operation == "or")
        self.result[threads] = result
        self.sync(threads, barrier, segment, operation)

    def _count_votes(self, members, operation):
        outcome = self.votes[members].any() == (operation == "or")
        self.machine.registers[self.result[members[0]]][members] = outcome

    def sync(self, threads, barrier, segment, vote=None):
        """bar.sync: by every thread of the block."""
        machine = self.machine
        if (barrier != 0).any():
            machine.fail(BarrierMisuse, "only barrier 0 is known", threads[0])
        machine.park(threads, "block")
        self.at[threads] = segment
        for block in np.unique(machine.block[threads]):
            members = machine.members(block)
            if (machine.parked_at[members] == machine.PARKED["block"]).all():
                self._check_warps(members)
                if vote is not None:
                    self._count_votes(members, vote)
                machine.clocks.join(members)
                machine.met(members)
                machine.release(members, self.at[members] + 1)

    def _check_warps(self, members):
        """bar.sync is aligned: the lanes of a warp wait at one instruction."""
        warps, at = self.machine.warp[members], self.at[members]
        first = at[np.searchsorted(warps, warps)]
        if (at != first).any():
            lane = members[np.flatnonzero(at != first)[0]]
            self.machine.fail(BarrierMisuse, "lanes of a warp are at different barriers", lane)

    def sync_warp(self, threads, segment):
        machine = self.machine
        machine.park(threads, "warp")
        self.at[threads] = segment
        for warp in np.unique(machine.warp[threads]):
            lanes = machine.lanes(warp)
            if (machine.parked_at[lanes] == machine.PARKED["warp"]).all():
                machine.clocks.join(lanes)
                machine.met(lanes)
                machine.release(lanes, self.at[lanes] + 1)

    def arrive_cluster(self, threads, releases):
        machine = self.machine
        if self.arrived[threads].any():
            machine.fail(BarrierMisuse, "a thread arrives twice", threads[0])
        self.arrived[threads] = True
        rows = machine.clocks.released(threads)
        if not releases:
            rows = machine.mbarriers.creations(rows, threads)
        for block in np.unique(machine.block[threads]):
            row = rows[machine.block[threads] == block].max(0)
            self.released[block // machine.cluster_size].add(SCOPES["cluster"], block, row)

    def wait_cluster(self, threads, segment, aligned):
        machine = self.machine
        if not self.arrived[threads].all():
            machine.fail(BarrierMisuse, "a thread waits that did not arrive", threads[0])
        machine.park(threads, "cluster")
        self.aligned[threads] = aligned
        self.at[threads] = segment
        for cluster in np.unique(machine.block[threads] // machine.cluster_size):
            members = np.flatnonzero(machine.block // machine.cluster_size == cluster)
            if (machine.parked_at[members] == machine.PARKED["cluster"]).all():
                visible = self.released[cluster].visible(
                    SCOPES["cluster"], machine.block[members[0]]
                )
                if visible is not None:
                    machine.clocks.acquire(members, visible)
                self.released[cluster] = Released(machine)
                self.arrived[members] = False
                if self.aligned[members].any():
                    machine.require_converged(members)
                machine.release(members, self.at[members] + 1)
