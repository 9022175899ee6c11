"""The same calls by tritonclient to several servers in turns: python triton_load.py ROUNDS CALLS TARGET...

Writes the milliseconds of each call, by target; the model is "null" everywhere, with one text and all outputs.
"""

import json
import sys
import time

import numpy as np
import tritonclient.grpc as triton


def main(rounds, calls, *targets):
    text = triton.InferInput("text", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([["I want my money back"]], dtype=object))
    clients = {target: triton.InferenceServerClient(target) for target in targets}
    took = {target: [] for target in targets}
    for number in range(int(rounds) + 1):
        for target, client in clients.items():
            for _ in range(int(calls)):
                began = time.perf_counter()
                answer = client.infer("null", [text])
                label = answer.as_numpy("label")[0, 0]
                if number:  # the first round is to warm up
                    took[target].append(1000 * (time.perf_counter() - began))
                assert label in (b"refund", b"price"), label
    json.dump(took, sys.stdout)


main(*sys.argv[1:])
