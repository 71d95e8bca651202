"""A client of Perennial made of nothing but grpcio and the published .proto files."""

import json
import os
import unittest
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from perennial.v1 import cluster_pb2, cluster_pb2_grpc
from perennial.v1 import entity_pb2, entity_pb2_grpc
from perennial.v1 import event_pb2, event_pb2_grpc

# Longer than any answer of a healthy node takes.
ANSWERED_WITHIN_S = 30
DOMAIN = "perennial"


@dataclass(frozen=True)
class Failure:
    """An error on the wire, taken apart."""

    code: str
    reason: str
    domain: str
    applied: str
    retry_after_s: float | None
    message: str


def failure_in(status: status_pb2.Status) -> Failure:
    """Takes the status in a response of a stream apart."""
    info = error_details_pb2.ErrorInfo()
    retry_after_s = None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    applied = info.metadata.get("applied", "")
    return Failure(code.name, info.reason, info.domain, applied, retry_after_s, status.message)


def failure_of(error: grpc.RpcError) -> Failure:
    """Takes the error of a call apart."""
    status = rpc_status.from_call(error)
    if status is None:
        return Failure(error.code().name, "", "", "", None, error.details())
    return failure_in(status)


class Client:
    """One connection to a node. With credentials it is encrypted, and the node has to
    prove that it is `name`, or else the host in its address."""

    def __init__(self, address: str, credentials=None, name=None):
        # Or it would wait with connecting because another client's connection failed.
        options = [("grpc.use_local_subchannel_pool", 1)]
        if credentials is None:
            self.channel = grpc.insecure_channel(address, options)
        else:
            if name:
                options.append(("grpc.ssl_target_name_override", name))
            self.channel = grpc.secure_channel(address, credentials, options)
        self.entities = entity_pb2_grpc.EntityServiceStub(self.channel)
        self.events = event_pb2_grpc.EventServiceStub(self.channel)
        self.cluster = cluster_pb2_grpc.ClusterServiceStub(self.channel)

    def request(self, entity_type, entity_id, command, **fields):
        """A command; text and bytes go as they are, anything else as JSON."""
        if isinstance(command, bytes):
            payload = command
        else:
            payload = json.dumps(command).encode()
        return entity_pb2.SendRequest(
            entity_type=entity_type, entity_id=entity_id, payload=payload, **fields
        )

    def send(self, entity_type, entity_id, command, **fields):
        """Sends a command and waits for its reply."""
        request = self.request(entity_type, entity_id, command, **fields)
        return self.entities.Send(request, timeout=ANSWERED_WITHIN_S)

    def reply(self, entity_type, entity_id, command, **fields):
        """Sends a command and returns the JSON of its reply."""
        return json.loads(self.send(entity_type, entity_id, command, **fields).payload)

    def state(self, entity_type, entity_id, at=None):
        """The state of an entity, the latest or a past one."""
        request = entity_pb2.GetStateRequest(
            entity_type=entity_type, entity_id=entity_id, at_sequence_nr=at
        )
        return self.entities.GetState(request, timeout=ANSWERED_WITHIN_S)

    def list(self, entity_type, **fields):
        """A page of the entities of a type."""
        request = entity_pb2.ListEntitiesRequest(entity_type=entity_type, **fields)
        return self.entities.ListEntities(request, timeout=ANSWERED_WITHIN_S)

    def stored(self, entity_type, entity_id, first=0, last=0, follow=False):
        """The stored events of an entity, as they come."""
        request = event_pb2.EventsRequest(
            entity_type=entity_type,
            entity_id=entity_id,
            from_sequence_nr=first,
            to_sequence_nr=last,
            follow=follow,
        )
        return self.events.Events(request, timeout=ANSWERED_WITHIN_S)

    def describe(self, entity_type, entity_id):
        """Where an entity lives and what it is doing."""
        request = cluster_pb2.DescribeEntityRequest(
            entity_type=entity_type, entity_id=entity_id
        )
        return self.cluster.DescribeEntity(request, timeout=ANSWERED_WITHIN_S)

    def delete(self, entity_type, entity_id):
        """Deletes an entity for good; returns the number that is kept."""
        request = entity_pb2.DeleteEntityRequest(
            entity_type=entity_type, entity_id=entity_id
        )
        response = self.entities.DeleteEntity(request, timeout=ANSWERED_WITHIN_S)
        return response.sequence_nr

    def passivate(self, entity_type, entity_id):
        """Takes an entity out of memory."""
        request = cluster_pb2.PassivateRequest(
            entity_type=entity_type, entity_id=entity_id
        )
        return self.cluster.Passivate(request, timeout=ANSWERED_WITHIN_S)


class ClientTest(unittest.TestCase):
    """A test that talks to the node at PERENNIAL_TEST_NODE."""

    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.client = Client(os.environ["PERENNIAL_TEST_NODE"])

    @classmethod
    def tearDownClass(cls):
        cls.client.channel.close()

    def failure(self, call, *args, **fields) -> Failure:
        """The error that a call ends with."""
        with self.assertRaises(grpc.RpcError) as raised:
            call(*args, **fields)
        return failure_of(raised.exception)

    def assert_failure(self, failure, code, reason, applied="no", retry=False):
        """Compares an error with its row of the table."""
        found = (failure.code, failure.reason, failure.domain, failure.applied)
        self.assertEqual(found, (code, reason, DOMAIN, applied), failure)
        self.assertEqual(failure.retry_after_s is not None, retry, failure)
        self.assertNotEqual(failure.message, "")
