"""Every row of the table of errors that one healthy node can produce.

The node runs with `node.max_in_flight` 64 and `persistence.stash_capacity` 8.
"""

import json
import time

import grpc

from perennial_client import ANSWERED_WITHIN_S, ClientTest, failure_of
from perennial.v1 import cluster_pb2

MAX_PAYLOAD = 1024 * 1024


class Rejected(ClientTest):
    def test_by_the_rules_of_the_entity(self):
        account = lambda command: self.failure(self.client.send, "account", "refusing", command)
        precondition = "FAILED_PRECONDITION"
        self.assert_failure(account("balance"), precondition, "NOT_OPEN")
        self.client.send("account", "refusing", {"open": {"owner": "ada"}})
        self.assert_failure(account({"open": {"owner": "ada"}}), precondition, "ALREADY_OPEN")
        self.assert_failure(account({"deposit": {"amount": 0}}), precondition, "AMOUNT_INVALID")
        short = account({"withdraw": {"amount": 1}})
        self.assert_failure(short, precondition, "INSUFFICIENT_FUNDS")
        self.client.send("account", "refusing", {"deposit": {"amount": 3}})
        self.assert_failure(account("close"), precondition, "BALANCE_NOT_ZERO")
        self.client.send("account", "refusing", {"withdraw": {"amount": 3}})
        self.client.send("account", "refusing", "close")
        self.assert_failure(account({"deposit": {"amount": 1}}), precondition, "CLOSED")

    def test_overflow(self):
        self.client.send("counter", "overflowing", {"add": 2**63 - 1})
        failure = self.failure(self.client.send, "counter", "overflowing", {"add": 1})
        self.assert_failure(failure, "FAILED_PRECONDITION", "OVERFLOW")

    def test_unexpected_sequence_number(self):
        self.client.send("counter", "moved-on", {"add": 1})
        failure = self.failure(
            self.client.send, "counter", "moved-on", {"add": 1}, expected_sequence_nr=7
        )
        self.assert_failure(failure, "FAILED_PRECONDITION", "SEQUENCE_NR_MISMATCH")
        self.assertEqual(self.client.reply("counter", "moved-on", "get"), {"value": 1})

    def test_unhandled_command(self):
        failure = self.failure(self.client.send, "misbehaving", "a", "leave_unhandled")
        self.assert_failure(failure, "UNIMPLEMENTED", "COMMAND_UNHANDLED")


class Malformed(ClientTest):
    def test_unknown_entity_type(self):
        failure = self.failure(self.client.send, "unheard-of", "a", "get")
        self.assert_failure(failure, "NOT_FOUND", "ENTITY_TYPE_UNKNOWN")
        failure = self.failure(self.client.state, "unheard-of", "a")
        self.assert_failure(failure, "NOT_FOUND", "ENTITY_TYPE_UNKNOWN")

    def test_payload(self):
        for payload in (b"", b"{", b'"fly"', b'{"add": "much"}', b"\xff\xfe"):
            with self.subTest(payload=payload):
                failure = self.failure(self.client.send, "counter", "a", payload)
                self.assert_failure(failure, "INVALID_ARGUMENT", "PAYLOAD_INVALID")

    def test_entity_id(self):
        for entity_id in ("", "x" * 256, "ä" * 128, "a|b", "a\nb", "a\u0085b"):
            for call in (
                lambda: self.client.send("counter", entity_id, "get"),
                lambda: self.client.state("counter", entity_id),
                lambda: list(self.client.stored("counter", entity_id)),
                lambda: self.client.describe("counter", entity_id),
                lambda: self.client.passivate("counter", entity_id),
            ):
                with self.subTest(entity_id=entity_id):
                    failure = self.failure(call)
                    self.assert_failure(failure, "INVALID_ARGUMENT", "ENTITY_ID_INVALID")
        self.client.send("counter", "x" * 255, "get")

    def test_command_id(self):
        for command_id in ("x" * 129, "ä" * 65):
            with self.subTest(command_id=command_id):
                failure = self.failure(
                    self.client.send, "counter", "a", {"add": 1}, command_id=command_id
                )
                self.assert_failure(failure, "INVALID_ARGUMENT", "COMMAND_ID_INVALID")
        self.client.send("counter", "long-command-id", {"add": 1}, command_id="x" * 128)

    def test_sequence_number_beyond_the_stream(self):
        self.client.send("counter", "short", {"add": 1})
        failure = self.failure(self.client.state, "counter", "short", at=2)
        self.assert_failure(failure, "INVALID_ARGUMENT", "SEQUENCE_NR_INVALID")

    def test_foreign_page_token(self):
        for token in ("nonsense", "ä", "AAAA"):
            with self.subTest(token=token):
                failure = self.failure(self.client.list, "counter", page_token=token)
                self.assert_failure(failure, "INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
        self.client.send("counter", "page-1", {"add": 1})
        self.client.send("counter", "page-2", {"add": 1})
        token = self.client.list("counter", page_size=1).next_page_token
        failure = self.failure(self.client.list, "account", page_token=token)
        self.assert_failure(failure, "INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")

    def test_unknown_node(self):
        request = cluster_pb2.DrainRequest(node_id="4711")
        failure = self.failure(self.client.cluster.Drain, request, timeout=ANSWERED_WITHIN_S)
        self.assert_failure(failure, "NOT_FOUND", "NODE_UNKNOWN")


class OutOfRange(ClientTest):
    """`counter|forgetful` has 5 events of 1 each, those up to 3 deleted."""

    def test_history_before_a_deletion(self):
        failure = self.failure(self.client.state, "counter", "forgetful", at=2)
        self.assert_failure(failure, "OUT_OF_RANGE", "HISTORY_DELETED")
        failure = self.failure(lambda: list(self.client.stored("counter", "forgetful", 2)))
        self.assert_failure(failure, "OUT_OF_RANGE", "HISTORY_DELETED")
        kept = [event.sequence_nr for event in self.client.stored("counter", "forgetful", 4)]
        self.assertEqual(kept, [4, 5])

    def test_too_large(self):
        for size in (MAX_PAYLOAD, 8 * MAX_PAYLOAD):
            for name in ("store_bytes", "reply_bytes"):
                with self.subTest(name=name, size=size):
                    failure = self.failure(self.client.send, "misbehaving", "large", {name: size})
                    self.assert_failure(failure, "OUT_OF_RANGE", "PAYLOAD_TOO_LARGE")
            with self.subTest("command", size=size):
                command = b'"' + b" " * size + b'"'
                failure = self.failure(self.client.send, "counter", "large", command)
                self.assert_failure(failure, "OUT_OF_RANGE", "PAYLOAD_TOO_LARGE")
        reply = self.client.reply("misbehaving", "large", "store")
        self.assertEqual(reply, {"count": 1}, "nothing that was too large was stored")

    def test_a_large_command_on_a_stream_leaves_its_neighbours_alone(self):
        large = b'"' + b" " * MAX_PAYLOAD + b'"'
        requests = [
            self.client.request("counter", "neighbour", {"add": 1}, correlation_id=1),
            self.client.request("counter", "neighbour", large, correlation_id=2),
            self.client.request("counter", "neighbour", {"add": 1}, correlation_id=3),
        ]
        responses = self.client.entities.SendStream(iter(requests), timeout=ANSWERED_WITHIN_S)
        answers = {response.correlation_id: response.HasField("status") for response in responses}
        self.assertEqual(answers, {1: False, 2: True, 3: False})


class Exhausted(ClientTest):
    def flood(self, entity_id, count):
        """Failures among many commands sent at once behind a slow one."""
        slow = self.client.request("misbehaving", entity_id, {"sleep_then_store": 1000})
        quick = self.client.request("misbehaving", entity_id, "store")
        calls = [self.client.entities.Send.future(slow, timeout=ANSWERED_WITHIN_S)]
        calls += [
            self.client.entities.Send.future(quick, timeout=ANSWERED_WITHIN_S)
            for _ in range(count - 1)
        ]
        errors = [call.exception() for call in calls]
        failures = [failure_of(error) for error in errors if error is not None]
        stored = self.client.state("misbehaving", entity_id).sequence_nr
        self.assertEqual(stored, count - len(failures), "exactly what was answered is stored")
        return failures

    def test_stash_is_full(self):
        failures = self.flood("popular", 40)
        self.assertGreater(len(failures), 0)
        for failure in failures:
            self.assert_failure(failure, "RESOURCE_EXHAUSTED", "STASH_FULL", retry=True)

    def test_too_many_in_flight(self):
        failures = self.flood("overrun", 200)
        reasons = {failure.reason for failure in failures}
        self.assertIn("OVERLOADED", reasons)
        self.assertLessEqual(reasons, {"OVERLOADED", "STASH_FULL"})
        for failure in failures:
            self.assert_failure(failure, "RESOURCE_EXHAUSTED", failure.reason, retry=True)


class TimedOut(ClientTest):
    """The deadline goes to the node as it is on the wire, without the client's
    own timer, which would fire first and know nothing of the outcome."""

    def late(self, entity_id, command):
        request = self.client.request("misbehaving", entity_id, command)
        return self.failure(
            self.client.entities.Send, request, metadata=[("grpc-timeout", "200m")]
        )

    def test_while_the_command_is_handled(self):
        failure = self.late("slow", {"sleep_then_store": 800})
        self.assert_failure(failure, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "unknown")

    def test_before_the_command_is_handled(self):
        # Calls at the same time have no order; the count tells which came first.
        for attempt in range(20):
            entity_id = f"queued-{attempt}"
            slow = self.client.request("misbehaving", entity_id, {"sleep_then_store": 800})
            ahead = self.client.entities.Send.future(slow, timeout=ANSWERED_WITHIN_S)
            failure = self.late(entity_id, "store")
            came_first = json.loads(ahead.result().payload) == {"count": 1}
            applied = "no" if came_first else "unknown"
            self.assert_failure(failure, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", applied)
            if came_first:
                stored = self.client.reply("misbehaving", entity_id, "store")
                self.assertEqual(stored, {"count": 2})
                return
        self.fail("the slow command never came first")


class Broken(ClientTest):
    def test_panic_in_the_handler(self):
        self.client.send("misbehaving", "nervous", "store")
        failure = self.failure(self.client.send, "misbehaving", "nervous", "panic_in_handler")
        self.assert_failure(failure, "INTERNAL", "ENTITY_PANICKED", "no")
        # The panic is a failure of its own: the entity comes back after a back-off.
        self.assertEqual(self.once_restarted("nervous"), {"count": 2})

    def test_panic_in_apply(self):
        failure = self.failure(self.client.send, "misbehaving", "explosive", "panic_in_apply")
        self.assert_failure(failure, "INTERNAL", "ENTITY_PANICKED", "no")
        # Events are applied before they are sent to the journal: none was stored.
        self.assertEqual(self.once_restarted("explosive"), {"count": 1})

    def test_event_that_cannot_be_encoded(self):
        self.client.send("misbehaving", "speechless", "store")
        failure = self.failure(self.client.send, "misbehaving", "speechless", "store_unencodable")
        self.assert_failure(failure, "FAILED_PRECONDITION", "PERSIST_REJECTED")
        reply = self.client.send("misbehaving", "speechless", "store")
        self.assertEqual(reply.sequence_nr, 2, "a refused event leaves no gap")

    def test_recovery_fails_and_backs_off(self):
        self.client.send("misbehaving", "illegible", "store")
        self.client.send("misbehaving", "illegible", "store_unreadable")
        self.client.passivate("misbehaving", "illegible")
        failure = self.failure(self.client.send, "misbehaving", "illegible", "store")
        self.assert_failure(failure, "UNAVAILABLE", "RECOVERY_FAILED", retry=True)
        for detail in ("misbehaving|illegible", "2", "unreadable"):
            self.assertIn(detail, failure.message)
        failure = self.failure(self.client.send, "misbehaving", "illegible", "store")
        self.assert_failure(failure, "UNAVAILABLE", "BACKING_OFF", retry=True)
        self.assertGreater(failure.retry_after_s, 0)
        self.assertEqual(self.client.describe("misbehaving", "illegible").state, "backing_off")

    def once_restarted(self, entity_id):
        """The reply to a good command, sent again as the node says when."""
        give_up = time.monotonic() + ANSWERED_WITHIN_S
        while True:
            try:
                return self.client.reply("misbehaving", entity_id, "store")
            except grpc.RpcError as error:
                failure = failure_of(error)
                self.assert_failure(failure, "UNAVAILABLE", "BACKING_OFF", retry=True)
                self.assertLess(time.monotonic(), give_up)
                time.sleep(failure.retry_after_s)
