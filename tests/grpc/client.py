"""What a client of gRPC that is not ours does with a node: arguments are the address of one, that of one with TLS, the authority of that, and
the first one's process, which this ends."""

import os
import signal
import sys

import grpc
from dynarust.v1 import kv_pb2, kv_pb2_grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

ADDRESS, SECURED, AUTHORITY, PROCESS = sys.argv[1:5]
TIMEOUT = 20


def refused(code, call):
    try:
        answer = call()
    except grpc.RpcError as error:
        assert error.code() == code, error
        return error
    raise AssertionError(f"{code} expected, not {answer}")


def check_kv(kv):
    def value(text):
        return kv_pb2.Value(json=text)

    wrote = kv.Set(kv_pb2.SetRequest(key="a", value=value('{"n": 1}')), timeout=TIMEOUT)
    assert wrote.created, wrote
    got = kv.Get(kv_pb2.GetRequest(key="a"), timeout=TIMEOUT).entry
    assert (got.value.json, got.version) == ('{"n":1}', wrote.version), got
    kv.Set(kv_pb2.SetRequest(key="b", value=kv_pb2.Value(bytes=b"\0\xff")), timeout=TIMEOUT)
    assert kv.Get(kv_pb2.GetRequest(key="b"), timeout=TIMEOUT).entry.value.bytes == b"\0\xff"
    pages = list(kv.List(kv_pb2.ListRequest(), timeout=TIMEOUT))
    assert [entry.key for page in pages for entry in page.entries] == ["a", "b"], pages
    new = kv_pb2.SetRequest(key="a", value=value("2"), condition=kv_pb2.Condition(exists=False))
    error = refused(grpc.StatusCode.ABORTED, lambda: kv.Set(new, timeout=TIMEOUT))
    assert wrote.version in error.details(), error
    assert "grpc-status-details-bin" in dict(error.trailing_metadata()), error
    txn = kv_pb2.TxnRequest(
        compare=[kv_pb2.Compare(key="a", version=wrote.version)],
        success=[kv_pb2.Operation(set=kv_pb2.SetRequest(key="c", value=value("3")))],
    )
    assert kv.Txn(txn, timeout=TIMEOUT).succeeded
    watch = kv.Watch(kv_pb2.WatchRequest(snapshot=True, key="c"), timeout=TIMEOUT)
    assert next(watch).updated.key == "c"
    assert next(watch).WhichOneof("event") == "synced"
    kv.Delete(kv_pb2.DeleteRequest(key="c"), timeout=TIMEOUT)
    assert next(message for message in watch if message.WhichOneof("event") != "position").deleted.key == "c"
    watch.cancel()
    refused(grpc.StatusCode.NOT_FOUND, lambda: kv.Get(kv_pb2.GetRequest(key="c"), timeout=TIMEOUT))
    short = kv.Watch(kv_pb2.WatchRequest(), timeout=0.2)
    refused(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: list(short))
    tables = kv.Tables(kv_pb2.TablesRequest(), timeout=TIMEOUT).tables
    assert ("kv", kv_pb2.TABLE_MODE_STRONG) in [(table.name, table.mode) for table in tables], tables
    cluster = kv.Cluster(kv_pb2.ClusterRequest(), timeout=TIMEOUT)
    assert cluster.strong.leader == cluster.node == cluster.members[0].node, cluster
    zipped = kv_pb2.GetRequest(key="a")
    refused(grpc.StatusCode.UNIMPLEMENTED, lambda: kv.Get(zipped, compression=grpc.Compression.Gzip, timeout=TIMEOUT))


def check_reflection(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    assert {"dynarust.v1.Kv", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= services, services
    service = DescriptorPool(database).FindServiceByName("dynarust.v1.Kv")
    methods = ["Get", "Set", "Delete", "List", "Watch", "Txn", "Tables", "Cluster"]
    assert [method.name for method in service.methods] == methods


def check_health(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ["", "dynarust.v1.Kv"]:
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, answer
    unknown = health_pb2.HealthCheckRequest(service="dynarust.v1.Kw")
    error = refused(grpc.StatusCode.NOT_FOUND, lambda: health.Check(unknown, timeout=TIMEOUT))
    assert "did you mean" in error.details(), error


def check_end(channel):
    """Streams end with a status, and calls that come later are told to go elsewhere."""
    watch = kv_pb2_grpc.KvStub(channel).Watch(kv_pb2.WatchRequest(), timeout=TIMEOUT)
    assert next(watch).WhichOneof("event") == "position"
    health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
    assert next(health).status == health_pb2.HealthCheckResponse.SERVING
    os.kill(int(PROCESS), signal.SIGTERM)
    error = refused(grpc.StatusCode.UNAVAILABLE, lambda: list(watch))
    assert "shutting down" in error.details(), error
    refused(grpc.StatusCode.UNAVAILABLE, lambda: list(health))


with open(AUTHORITY, "rb") as file:
    credentials = grpc.ssl_channel_credentials(file.read())
options = [("grpc.ssl_target_name_override", "localhost")]
with grpc.secure_channel(SECURED, credentials, options) as secured:
    check_kv(kv_pb2_grpc.KvStub(secured))
with grpc.insecure_channel(SECURED) as plain:
    refused(grpc.StatusCode.UNAVAILABLE, lambda: kv_pb2_grpc.KvStub(plain).Get(kv_pb2.GetRequest(key="a"), timeout=TIMEOUT))
with grpc.insecure_channel(ADDRESS) as channel:
    check_kv(kv_pb2_grpc.KvStub(channel))
    check_reflection(channel)
    check_health(channel)
    check_end(channel)
print("all ok")
