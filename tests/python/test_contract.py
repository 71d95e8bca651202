"""What the contract promises of the good case."""

import json
import threading

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from perennial_client import ANSWERED_WITHIN_S, ClientTest, failure_in


class Sending(ClientTest):
    def test_reply_and_sequence_number(self):
        first = self.client.send("counter", "sending", {"add": 5})
        second = self.client.send("counter", "sending", {"add": -2})
        self.assertEqual(json.loads(first.payload), {"value": 5})
        self.assertEqual(json.loads(second.payload), {"value": 3})
        self.assertEqual((first.sequence_nr, second.sequence_nr), (1, 2))
        self.assertEqual(first.content_type, "application/json")
        self.assertFalse(first.duplicate)

    def test_never_written_entity_has_its_initial_state(self):
        response = self.client.send("counter", "untouched", "get")
        self.assertEqual(json.loads(response.payload), {"value": 0})
        self.assertEqual(response.sequence_nr, 0)
        self.assertEqual(self.client.state("counter", "untouched").sequence_nr, 0)

    def test_retry_gets_the_original_reply(self):
        original = self.client.send("counter", "retried", {"add": 1}, command_id="a")
        self.client.send("counter", "retried", {"add": 10}, command_id="b")
        retry = self.client.send("counter", "retried", {"add": 1}, command_id="a")
        self.assertFalse(original.duplicate)
        self.assertTrue(retry.duplicate)
        self.assertEqual(retry.payload, original.payload)
        self.assertEqual(self.client.reply("counter", "retried", "get"), {"value": 11})

    def test_expected_sequence_number(self):
        self.client.send("counter", "expected", {"add": 1}, expected_sequence_nr=0)
        self.client.send("counter", "expected", {"add": 1}, expected_sequence_nr=1)
        self.assertEqual(self.client.reply("counter", "expected", "get"), {"value": 2})

    def test_stream_keeps_the_order_of_each_entity(self):
        requests = [
            self.client.request("counter", f"ordered-{i % 3}", {"add": 1}, correlation_id=i)
            for i in range(60)
        ]
        responses = self.client.entities.SendStream(iter(requests), timeout=ANSWERED_WITHIN_S)
        values = {0: [], 1: [], 2: []}
        for response in responses:
            self.assertFalse(response.HasField("status"), response)
            value = json.loads(response.payload)["value"]
            values[response.correlation_id % 3].append((response.correlation_id, value))
        for entity, answers in values.items():
            self.assertEqual(answers, [(entity + 3 * i, i + 1) for i in range(20)])

    def test_error_on_a_stream_concerns_its_command_only(self):
        requests = [
            self.client.request("account", "streamed", "balance", correlation_id=1),
            self.client.request("counter", "streamed", {"add": 1}, correlation_id=2),
            self.client.request("Counter!", "streamed", {"add": 1}, correlation_id=3),
        ]
        responses = self.client.entities.SendStream(iter(requests), timeout=ANSWERED_WITHIN_S)
        answers = {response.correlation_id: response for response in responses}
        rejected = failure_in(answers[1].status)
        self.assert_failure(rejected, "FAILED_PRECONDITION", "NOT_OPEN")
        self.assertEqual(json.loads(answers[2].payload), {"value": 1})
        self.assertNotEqual(failure_in(answers[3].status).reason, "")


class Reading(ClientTest):
    def test_state_latest_and_past(self):
        for amount in (1, 10, 100):
            self.client.send("counter", "read", {"add": amount})
        latest = self.client.state("counter", "read")
        past = self.client.state("counter", "read", at=2)
        self.assertEqual((json.loads(latest.payload), latest.sequence_nr), ({"value": 111}, 3))
        self.assertEqual((json.loads(past.payload), past.sequence_nr), ({"value": 11}, 2))

    def test_list_in_pages(self):
        entities = [f"listed-{i:02}" for i in range(25)]
        for entity in entities:
            self.client.send("account", entity, {"open": {"owner": "ada"}})
        found, token = [], ""
        while True:
            page = self.client.list("account", page_size=10, page_token=token)
            self.assertLessEqual(len(page.entities), 10)
            found += [line.entity_id for line in page.entities]
            self.assertTrue(all(line.sequence_nr >= 1 for line in page.entities))
            token = page.next_page_token
            if not token:
                break
        self.assertEqual(found, sorted(found))
        self.assertEqual([id for id in found if id.startswith("listed-")], entities)

    def test_events_with_all_their_fields(self):
        self.client.send("counter", "told", {"add": 1}, command_id="one", metadata={"by": "ada"})
        self.client.send("counter", "told", {"add": 2})
        first, second = self.client.stored("counter", "told")
        self.assertEqual(first.persistence_id, "counter|told")
        self.assertEqual((first.entity_type, first.entity_id), ("counter", "told"))
        self.assertEqual((first.sequence_nr, second.sequence_nr), (1, 2))
        self.assertEqual(first.writer_uuid, second.writer_uuid)
        self.assertEqual((first.command_id, second.command_id), ("one", ""))
        self.assertEqual(dict(first.metadata), {"by": "ada"})
        self.assertEqual(first.content_type, "application/json")
        self.assertGreater(first.created_at.ToSeconds(), 1_600_000_000)

    def test_events_of_a_range(self):
        for _ in range(5):
            self.client.send("counter", "ranged", {"add": 1})
        numbers = [event.sequence_nr for event in self.client.stored("counter", "ranged", 2, 4)]
        self.assertEqual(numbers, [2, 3, 4])

    def test_followed_events_come_as_they_are_stored(self):
        self.client.send("counter", "followed", {"add": 1})
        stream = self.client.stored("counter", "followed", follow=True)
        self.assertEqual(next(stream).sequence_nr, 1)
        sender = threading.Thread(
            target=lambda: [self.client.send("counter", "followed", {"add": 1}) for _ in range(3)]
        )
        sender.start()
        self.assertEqual([next(stream).sequence_nr for _ in range(3)], [2, 3, 4])
        sender.join()
        stream.cancel()
        bounded = self.client.stored("counter", "followed", last=4, follow=True)
        self.assertEqual([event.sequence_nr for event in bounded], [1, 2, 3, 4])


class Deleting(ClientTest):
    def test_deleted_entity_begins_anew(self):
        self.client.send("counter", "deleted", {"add": 7}, command_id="once")
        self.client.send("counter", "deleted", {"add": 1})
        for _ in range(2):
            self.assertEqual(self.client.delete("counter", "deleted"), 2)
        state = self.client.state("counter", "deleted")
        self.assertEqual((json.loads(state.payload), state.sequence_nr), ({"value": 0}, 2))
        self.assertNotIn(
            "deleted", [line.entity_id for line in self.client.list("counter").entities]
        )
        again = self.client.send("counter", "deleted", {"add": 5}, command_id="once")
        self.assertEqual((json.loads(again.payload), again.sequence_nr), ({"value": 5}, 3))
        self.assertFalse(again.duplicate)
        self.assertEqual([event.sequence_nr for event in self.client.stored("counter", "deleted")], [3])
        for failure in (
            self.failure(self.client.state, "counter", "deleted", at=1),
            self.failure(lambda: list(self.client.stored("counter", "deleted", 2))),
        ):
            self.assert_failure(failure, "OUT_OF_RANGE", "HISTORY_DELETED")

    def test_entity_that_never_was(self):
        self.assertEqual(self.client.delete("counter", "never"), 0)


class Operating(ClientTest):
    def test_passivated_entity_comes_back(self):
        self.client.send("counter", "dormant", {"add": 7})
        self.assertEqual(self.client.describe("counter", "dormant").state, "live")
        self.client.passivate("counter", "dormant")
        self.assertEqual(self.client.describe("counter", "dormant").state, "passive")
        self.assertEqual(self.client.reply("counter", "dormant", "get"), {"value": 7})

    def test_description(self):
        self.client.send("counter", "described", {"add": 7})
        description = self.client.describe("counter", "described")
        self.assertEqual((description.state, description.sequence_nr), ("live", 1))
        self.assertLess(description.shard_id, 1024)
        self.assertNotEqual(description.node_id, "")

    def test_health(self):
        health = health_pb2_grpc.HealthStub(self.client.channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=ANSWERED_WITHIN_S)
        self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)

    def test_reflection_lists_the_services(self):
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        for version in ("v1", "v1alpha"):
            call = self.client.channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )
            try:
                answer = next(call(iter([question]), timeout=ANSWERED_WITHIN_S))
                break
            except grpc.RpcError as error:
                self.assertEqual(error.code(), grpc.StatusCode.UNIMPLEMENTED)
        names = {service.name for service in answer.list_services_response.service}
        for name in ("EntityService", "EventService", "ClusterService"):
            self.assertIn(f"perennial.v1.{name}", names)
