"""Commands from many clients at once, each answered exactly once or counted as failed.

A connection that is refused or closed is no failure: the client sends the command, with
the same command id, to the next node. Any other error is one, unless the load is
`patient`: then what the node says can be tried again is tried again.
"""

import collections
import threading
import time
import uuid

import grpc
from perennial_client import Client, failure_of

CLIENTS = 16
COUNTERS = 200
# How long one command is repeated before it has failed.
PATIENCE_S = 60


def plain(address):
    """A client without encryption."""
    return Client(address)


class Load:
    """Adds 1 to counters until it is stopped, and knows what they must be. `connect` makes
    a client out of an address."""

    def __init__(self, addresses, patient=False, connect=plain, patience_s=PATIENCE_S):
        self._patient = patient
        self._connect = connect
        self._patience_s = patience_s
        self._clients = [connect(f"{address}:7400") for address in addresses]
        # Apart from what earlier loads left.
        self._prefix = uuid.uuid4().hex[:8]
        self._lock = threading.Lock()
        self._sums = collections.Counter()
        self._failures = collections.Counter()
        self.answered = 0
        self.repeated = 0
        self.slowest_s = 0.0
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(nr,)) for nr in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def moved(self, index, address):
        """A container may come back with another address."""
        self._clients[index] = self._connect(f"{address}:7400")

    def failures(self):
        """What failed, and how often."""
        with self._lock:
            return dict(self._failures)

    def ask_all(self, address):
        """Asks every counter through one node, until each has answered. The load itself
        says little of how long that takes: where nobody answers its clients wait."""
        client = self._connect(f"{address}:7400")
        for counter in range(COUNTERS):
            began = time.monotonic()
            while True:
                try:
                    client.reply("counter", f"{self._prefix}-{counter}", "get")
                    break
                except grpc.RpcError:
                    if time.monotonic() - began > self._patience_s:
                        raise
                    time.sleep(0.02)

    def stop(self):
        """Waits for the answers that are still to come."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def check_sums(self, addresses, taken_back=False):
        """Every counter is what was acknowledged, through every node, or nothing where
        all of it was taken back."""
        for address in addresses:
            client = self._connect(f"{address}:7400")
            for counter, acknowledged in self._sums.items():
                expected = 0 if taken_back else acknowledged
                found = client.reply("counter", f"{self._prefix}-{counter}", "get")["value"]
                assert found == expected, f"counter {counter} through {address}: {found}, not {expected}"

    def _work(self, nr):
        turn = nr
        while not self._stopping.is_set():
            turn += CLIENTS
            counter = turn % COUNTERS
            began = time.monotonic()
            problem = self._send(turn, counter, began)
            ended = time.monotonic()
            with self._lock:
                if problem is None:
                    self.answered += 1
                    self._sums[counter] += 1
                    self.slowest_s = max(self.slowest_s, ended - began)
                else:
                    self._failures[problem] += 1

    def _send(self, turn, counter, began):
        """Sends one command until it is answered; why it failed, if it did."""
        command_id = uuid.uuid4().hex
        attempt = 0
        while True:
            client = self._clients[(turn + attempt) % len(self._clients)]
            try:
                request = client.request("counter", f"{self._prefix}-{counter}", {"add": 1}, command_id=command_id)
                client.entities.Send(request, timeout=10)
                return None
            except grpc.RpcError as error:
                failure = failure_of(error)
            # Without a reason it does not come from a node, but from the connection.
            repeatable = failure.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED") if self._patient else (
                failure.code == "UNAVAILABLE" and failure.reason == ""
            )
            if not repeatable or time.monotonic() - began > self._patience_s:
                return f"{failure.code} {failure.reason} {failure.message}"
            with self._lock:
                self.repeated += 1
            attempt += 1
            time.sleep(min(0.02 * attempt, 0.5))
