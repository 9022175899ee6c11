"""grpc-requests, which uses reflection: python reflecting.py TARGET; writes the answers."""

import base64
import json
import sys

from grpc_requests import Client

SERVICE = "inference.GRPCInferenceService"


def main(target):
    client = Client.get_by_endpoint(target)
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1]}
    contents = {"bytes_contents": [base64.b64encode(b"a refund").decode()]}
    asked = {"model_name": "intent", "inputs": [{**tensor, "contents": contents}], "outputs": [{"name": "label"}]}
    found = {
        "services": sorted(client.service_names),
        "live": client.request(SERVICE, "ServerLive", {}),
        "answer": client.request(SERVICE, "ModelInfer", asked),
        "stream": list(client.request(SERVICE, "ModelStreamInfer", [asked])),
        "own": client.request("edge_agent.v1.InferenceService", "Classify", {"task": "intent", "texts": ["a refund"]}),
    }
    json.dump(found, sys.stdout)


main(sys.argv[1])
