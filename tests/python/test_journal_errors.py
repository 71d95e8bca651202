"""The rows of the table of errors that need a journal with problems of its own.

Each class is run by itself, while the Rust side keeps the journal in the state
the class is named for. The node's `persistence.append_timeout` is one second.
"""

from perennial_client import ClientTest


class Healthy(ClientTest):
    def test_entities_are_live(self):
        for entity_id in ("contested", "stalled", "unreachable"):
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

    def test_nothing_is_sent(self):
        # The first may still find a connection that looks alive.
        self.failure(self.client.send, "counter", "finds-out", {"add": 1})
        failure = self.failure(self.client.send, "counter", "unreachable", {"add": 1})
        self.assert_failure(failure, "UNAVAILABLE", "JOURNAL_UNAVAILABLE", retry=True)

    def test_reads_of_live_entities_go_on(self):
        self.assertEqual(self.client.reply("counter", "unreachable", "get"), {"value": 1})


class Reachable(ClientTest):
    """The journal is back."""

    def test_everything_goes_on(self):
        self.client.send("counter", "unreachable", {"add": 1})
