"""Tokens made by PyJWT, with keys of every kind: what nodes take, and what they refuse.

The node reads the keys in PERENNIAL_TEST_JWKS. "shop" may send to counters and read
their events, "operators" may administer.
"""

import base64
import hashlib
import hmac
import json
import os
import time

import grpc
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from grpc_health.v1 import health_pb2, health_pb2_grpc
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from perennial_client import ANSWERED_WITHIN_S, ClientTest, failure_in
from perennial.v1 import cluster_pb2, entity_pb2, event_pb2

ISSUER = "https://issuer.example"
AUDIENCE = "perennial-tests"

KEYS = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "PS512": rsa.generate_private_key(public_exponent=65537, key_size=3072),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def published(algorithm, key):
    """The public part of a key as a JSON Web Key."""
    kind = {"R": RSAAlgorithm, "P": RSAAlgorithm, "E": ECAlgorithm}[algorithm[0]]
    if algorithm == "EdDSA":
        kind = OKPAlgorithm
    jwk = json.loads(kind.to_jwk(key.public_key()))
    # What a key is for is given by its own field where it has one.
    jwk.pop("key_ops", None)
    return {**jwk, "kid": algorithm, "alg": algorithm, "use": "sig"}


def token(algorithm="ES256", key=None, headers=None, **claims):
    """A good token, but for what is changed; a claim that is None is left out."""
    now = int(time.time())
    claims = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": "shop", "iat": now, "exp": now + 600, **claims
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    headers = {"kid": algorithm, **(headers or {})}
    return jwt.encode(claims, key or KEYS[algorithm], algorithm=algorithm, headers=headers)


def bearer(text):
    return [("authorization", f"Bearer {text}")]


class AuthTest(ClientTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        path = os.environ["PERENNIAL_TEST_JWKS"]
        keys = [published(algorithm, key) for algorithm, key in KEYS.items()]
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump({"keys": keys}, file)
        os.replace(path + ".new", path)
        give_up = time.monotonic() + ANSWERED_WITHIN_S
        while True:
            try:
                cls.add(cls, token())
                return
            except grpc.RpcError as error:
                taken_soon = error.code() == grpc.StatusCode.UNAUTHENTICATED
                if not taken_soon or time.monotonic() > give_up:
                    raise
                time.sleep(0.05)

    def add(self, text, entity_type="counter", scheme="Bearer"):
        request = self.client.request(entity_type, "known", {"add": 1})
        metadata = [("authorization", f"{scheme} {text}")]
        return self.client.entities.Send(
            request, metadata=metadata, timeout=ANSWERED_WITHIN_S
        )

    def assert_refused(self, text, said="", **fields):
        failure = self.failure(self.add, text, **fields)
        self.assert_failure(failure, "UNAUTHENTICATED", "UNAUTHENTICATED")
        self.assertIn(said, failure.message)
        self.assertNotIn(text or "?", failure.message)


class Good(AuthTest):
    def test_every_algorithm(self):
        for algorithm in KEYS:
            with self.subTest(algorithm=algorithm):
                self.add(token(algorithm))

    def test_several_audiences(self):
        self.add(token(aud=["other", AUDIENCE]))

    def test_access_tokens_have_a_type_of_their_own(self):
        self.add(token(headers={"typ": "at+jwt"}))

    def test_the_scheme_may_be_written_in_any_case(self):
        self.add(token(), scheme="bearer")


class Refused(AuthTest):
    def test_claims(self):
        now = int(time.time())
        for said, claims in [
            ("expired", {"exp": now - 1}),
            ("not valid yet", {"nbf": now + 600}),
            ("not valid yet", {"iat": now + 600}),
            ("audience", {"aud": "other"}),
            ("audience", {"aud": None}),
            ("issuer", {"iss": "https://other.example"}),
            ("issuer", {"iss": None}),
            ('"exp"', {"exp": None}),
            ('"sub"', {"sub": None}),
        ]:
            with self.subTest(claims=claims):
                self.assert_refused(token(**claims), said)

    def test_keys(self):
        other = ec.generate_private_key(ec.SECP256R1())
        self.assert_refused(token(key=other), "signature is wrong")
        self.assert_refused(token(headers={"kid": "unheard-of"}), "does not know")
        # The name of one key and the signature of another.
        self.assert_refused(token("RS256", headers={"kid": "ES256"}), "algorithm")

    def test_no_signature(self):
        head, claims, _ = token().split(".")
        self.assert_refused(f"{head}.{claims}.", "signature")
        none = jwt.encode({"sub": "shop"}, None, algorithm="none", headers={"kid": "ES256"})
        self.assert_refused(none, "algorithm")

    def test_public_key_as_a_shared_secret(self):
        pem = KEYS["RS256"].public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        encode = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()
        head = encode(json.dumps({"alg": "HS256", "kid": "RS256"}).encode())
        signed = f"{head}.{token().split('.')[1]}"
        tag = hmac.new(pem, signed.encode(), hashlib.sha256).digest()
        self.assert_refused(f"{signed}.{encode(tag)}", "algorithm")

    def test_garbage(self):
        for text in ("x", "x.y.z", "..", "x" * 9000, token() + "x", token()[1:]):
            with self.subTest(text=text[:20]):
                self.assert_refused(text)
        self.assert_refused(token(), scheme="Basic")

    def test_no_token(self):
        failure = self.failure(self.client.send, "counter", "known", "get")
        self.assert_failure(failure, "UNAUTHENTICATED", "UNAUTHENTICATED")
        health = health_pb2_grpc.HealthStub(self.client.channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=ANSWERED_WITHIN_S)
        self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)


class Rights(AuthTest):
    def test_by_entity_type(self):
        failure = self.failure(self.add, token(), entity_type="account")
        self.assert_failure(failure, "PERMISSION_DENIED", "PERMISSION_DENIED")

    def test_by_kind_of_call(self):
        shop, operator = bearer(token()), bearer(token(sub="ada", groups=["operators"]))
        entity = {"entity_type": "counter", "entity_id": "known"}
        drain = (self.client.cluster.Drain, cluster_pb2.DrainRequest(node_id="77"))
        passivate = (self.client.cluster.Passivate, cluster_pb2.PassivateRequest(**entity))
        state = (self.client.entities.GetState, entity_pb2.GetStateRequest(**entity))
        cluster = (self.client.cluster.GetCluster, cluster_pb2.GetClusterRequest())
        events = (
            lambda *args, **fields: list(self.client.events.Events(*args, **fields)),
            event_pb2.EventsRequest(**entity),
        )
        for metadata, allowed, denied in [
            (shop, [events], [state, drain, passivate, cluster]),
            (operator, [passivate, cluster], [state, events]),
        ]:
            for call, request in allowed:
                call(request, metadata=metadata, timeout=ANSWERED_WITHIN_S)
            for call, request in denied:
                failure = self.failure(
                    call, request, metadata=metadata, timeout=ANSWERED_WITHIN_S
                )
                self.assert_failure(failure, "PERMISSION_DENIED", "PERMISSION_DENIED")

    def test_each_command_of_a_stream(self):
        requests = [
            self.client.request("counter", "streamed", {"add": 1}, correlation_id=1),
            self.client.request("account", "streamed", "balance", correlation_id=2),
            self.client.request("counter", "streamed", {"add": 1}, correlation_id=3),
        ]
        responses = self.client.entities.SendStream(
            iter(requests), metadata=bearer(token()), timeout=ANSWERED_WITHIN_S
        )
        answers = {
            response.correlation_id: failure_in(response.status).reason
            if response.HasField("status")
            else ""
            for response in responses
        }
        self.assertEqual(answers, {1: "", 2: "PERMISSION_DENIED", 3: ""})
