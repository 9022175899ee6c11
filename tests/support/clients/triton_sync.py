"""tritonclient, unchanged: python triton_sync.py TARGET [CA CERTIFICATE KEY]; writes the answers as JSON."""

import json
import queue
import sys

import numpy as np
import tritonclient.grpc as triton


def tensor(*texts):
    made = triton.InferInput("text", [len(texts), 1], "BYTES")
    made.set_data_from_numpy(np.array([[text] for text in texts], dtype=object))
    return made


def listed(result, *names):
    return {name: [_plain(each) for each in result.as_numpy(name).flatten()] for name in names}


def _plain(value):
    return value.decode() if isinstance(value, bytes) else value.item()


def refused(call):
    try:
        call()
    except triton.InferenceServerException as error:
        return [error.status(), error.message()]
    return None


def streamed(client, *requests):
    """Send requests on one stream; return text, error, id and whether it is the last of each response."""
    came, responses = queue.Queue(), []
    client.start_stream(callback=lambda result, error: came.put((result, error)))
    for place, (model, text) in enumerate(requests):
        client.async_stream_infer(model, [tensor(text)], request_id=str(place), enable_empty_final_response=True)
    ended = 0
    while ended < len(requests):
        result, error = came.get(timeout=30)
        last = error is not None or result.get_response().parameters["triton_final_response"].bool_param
        ended += last
        texts = [] if error or result.as_numpy("text") is None else listed(result, "text")["text"]
        responses.append([error.message() if error else texts, last])
    client.stop_stream()
    return responses


def main(target, ca="", certificate="", key=""):
    files = {"ssl": True, "root_certificates": ca, "certificate_chain": certificate, "private_key": key} if ca else {}
    client = triton.InferenceServerClient(target, **files)
    wanted = [triton.InferRequestedOutput(name) for name in ("scores", "label")]
    batch = client.infer("intent", [tensor("a refund", "the price")], request_id="a/7")
    found = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("intent", "1002000"),
        "server": client.get_server_metadata(as_json=True)["name"],
        "metadata": client.get_model_metadata("intent", as_json=True),
        "config": client.get_model_config("intent", as_json=True)["config"],
        "batch": listed(batch, "label", "confidence", "below_threshold", "scores", "route", "prediction_id"),
        "scores_shape": list(batch.as_numpy("scores").shape),
        "id": batch.get_response().id,
        "wanted": [each.name for each in client.infer("intent", [tensor("x")], outputs=wanted).get_response().outputs],
        "record": listed(client.infer("extract", [tensor("12 lamps")]), "record"),
        "embedding_shape": list(client.infer("embed", [tensor("a", "b", "c")]).as_numpy("embedding").shape),
        "abstained": listed(
            client.infer("intent", [tensor("x")], parameters={"on_low_confidence": "abstain"}), "label", "route"
        ),
        "unknown": refused(lambda: client.infer("nobody", [tensor("x")])),
        "parameter": refused(lambda: client.infer("intent", [tensor("x")], parameters={"colour": "red"})),
        "priority": refused(lambda: client.infer("intent", [tensor("x")], priority=3)),
        "late": refused(lambda: client.infer("intent", [tensor("!slow 3000")], client_timeout=0.3)),
        "stream": streamed(client, ("generate", "one two three"), ("nobody", "x"), ("generate", "four")),
        "statistics": client.get_inference_statistics("intent", as_json=True)["model_stats"][0],
    }
    json.dump(found, sys.stdout)


main(*sys.argv[1:])
