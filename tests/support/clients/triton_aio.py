"""tritonclient's asyncio client, unchanged: python triton_aio.py TARGET; writes the answers as JSON."""

import asyncio
import json
import sys

import numpy as np
import tritonclient.grpc.aio as triton


def tensor(text):
    made = triton.InferInput("text", [1, 1], "BYTES")
    made.set_data_from_numpy(np.array([[text]], dtype=object))
    return made


async def main(target):
    async with triton.InferenceServerClient(target) as client:
        results = await asyncio.gather(
            *(client.infer("intent", [tensor(text)]) for text in ("a refund", "the price") * 8)
        )

        async def requests():
            for text in ("one two", "three"):
                yield {"model_name": "generate", "inputs": [tensor(text)], "request_id": text}

        pieces = []
        async for result, error in client.stream_infer(requests()):
            assert error is None, error
            response = result.get_response()
            last = response.parameters["triton_final_response"].bool_param
            pieces.append([response.id, result.as_numpy("text")[0].decode(), last])
        found = {
            "ready": await client.is_model_ready("intent"),
            "labels": [result.as_numpy("label")[0, 0].decode() for result in results],
            "pieces": pieces,
        }
    json.dump(found, sys.stdout)


asyncio.run(main(sys.argv[1]))
