"""The rows of the table of errors that need a journal with problems of its own.

Each class is run by itself, while the Rust side keeps the journal in the state
the class is named for. The node's `persistence.append_timeout` is one second.
"""

import time

import grpc

from perennial_client import ANSWERED_WITHIN_S, ClientTest, failure_of


class Healthy(ClientTest):
    def test_entities_are_live(self):
        for entity_id in ("contested", "stalled", "unreachable", "spared"):
            self.client.send("counter", entity_id, {"add": 1})


class Contested(ClientTest):
    """Somebody else has stored number 2 of `counter|contested`."""

    def test_another_author_was_first(self):
        failure = self.failure(self.client.send, "counter", "contested", {"add": 1})
        self.assert_failure(failure, "ABORTED", "WRITER_CONFLICT", retry=True)


class Stalled(ClientTest):
    """The journal takes what it is sent and does not answer."""

    def test_append_is_undecided_at_the_deadline(self):
        failure = self.failure(self.client.send, "counter", "stalled", {"add": 1})
        self.assert_failure(failure, "UNAVAILABLE", "PERSIST_FAILED", "unknown", retry=True)


class Unreachable(ClientTest):
    """No connection to the journal can be made."""

    def test_live_entities_can_be_read(self):
        self.assertEqual(self.client.reply("counter", "spared", "get"), {"value": 1})

    def test_nothing_is_sent(self):
        # The first may still find a connection that looks alive.
        self.failure(self.client.send, "counter", "finds-out", {"add": 1})
        failure = self.failure(self.client.send, "counter", "unreachable", {"add": 1})
        self.assert_failure(failure, "UNAVAILABLE", "JOURNAL_UNAVAILABLE", retry=True)


class Reachable(ClientTest):
    """The journal is back."""

    def test_everything_goes_on(self):
        for entity_id in ("spared", "unreachable", "contested", "stalled"):
            self.once_available(entity_id)
        self.assertEqual(self.client.reply("counter", "spared", "get"), {"value": 2})
        self.assertEqual(self.client.reply("counter", "unreachable", "get"), {"value": 2})
        self.assertEqual(self.client.reply("counter", "contested", "get"), {"value": 3})
        # One more or less: the append that was undecided.
        stalled = self.client.reply("counter", "stalled", "get")
        self.assertIn(stalled, ({"value": 2}, {"value": 3}))

    def once_available(self, entity_id):
        """Adds 1, again and again until the journal is found to be back."""
        give_up = time.monotonic() + ANSWERED_WITHIN_S
        while True:
            try:
                return self.client.send("counter", entity_id, {"add": 1})
            except grpc.RpcError as error:
                failure = failure_of(error)
                self.assertEqual((failure.code, failure.applied), ("UNAVAILABLE", "no"), failure)
                self.assertLess(time.monotonic(), give_up)
                time.sleep(failure.retry_after_s)
