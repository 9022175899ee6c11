"""KServe's InferenceGRPCClient, unchanged: python kserve_client.py TARGET; writes the answers as JSON."""

import asyncio
import json
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest


def request(model, *texts, raw, **parameters):
    made = InferInput("text", [len(texts), 1], "BYTES")
    if raw:
        made.set_data_from_numpy(np.array([[text] for text in texts], dtype=object), binary_data=True)
    else:
        made = InferInput("text", [len(texts), 1], "BYTES", data=[text.encode() for text in texts])
    return InferRequest(model_name=model, infer_inputs=[made], request_id="k/1", parameters=parameters or None)


async def asked(client, made, *names):
    response = await client.infer(made)
    outputs = {output.name: output for output in response.outputs}
    return {name: outputs[name].as_numpy().flatten().tolist() for name in names}, response.id


async def main(target):
    client = InferenceGRPCClient(target, timeout=30)
    names = ("label", "confidence", "prediction_id")
    found = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model_ready": await client.is_model_ready("intent"),
    }
    for name, raw in (("raw", True), ("typed", False)):
        found[name], found["id"] = await asked(client, request("intent", "a refund", "the price", raw=raw), *names)
    abstain = request("intent", "x", raw=True, on_low_confidence="abstain")
    found["abstained"], _ = await asked(client, abstain, "label", "route")
    found["text"], _ = await asked(client, request("generate", "one two", raw=True), "text", "finish_reason")
    try:
        await client.infer(request("nobody", "x", raw=True))
    except grpc.RpcError as error:
        found["unknown"] = [error.code().name, error.details()]
    json.dump(found, sys.stdout, default=lambda value: value.decode())
    await client.close()


asyncio.run(main(sys.argv[1]))
