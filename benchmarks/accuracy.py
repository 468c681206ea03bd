"""The error of tanh, of every float32 value, and of whole loops, on each instruction set of this machine.

    python benchmarks/accuracy.py           # minutes; writes results/accuracy.json and the docs
    python benchmarks/accuracy.py --quick   # every 4,999th float32 value

tanh is measured through the public API: a step from zeros returns the tanh of its projections. The reference is
float64's tanh for the narrower types (its own error is below 2^-28 of their last place) and mpmath's, of 60 digits,
for float64. One ulp is the distance between floats at the exact value. The loops are compared with a float64 loop of
the same float32 weights, beside torch.nn.RNN, JAX and ONNX Runtime where these are installed.
"""

import argparse
import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import mpmath
import numpy as np
import torch
from peers import PEERS
from results import cpu_name
from tqdm import tqdm

import rnnfused
from rnnfused.bench.shape import ways

RESULTS = Path(__file__).parent / "results" / "accuracy.json"
CAPABILITIES = ("default", "avx2", "avx512", "avx512_bf16")
CHUNK = 1 << 22
SATURATED = 9.02  # from here on float32's tanh is 1
# Regions of float64 where a tanh goes wrong: tiny values, changes of algorithm or exponent, saturation.
REGIONS = {
    "1e-300 to 1e-8": (1e-300, 1e-8),
    "1e-8 to 0.1": (1e-8, 0.1),
    "0.1 to 0.18": (0.1, 0.18),
    "0.17 to 0.36": (0.17, 0.36),
    "0.36 to 1": (0.36, 1.0),
    "1 to 8": (1.0, 8.0),
    "8 to 18.5": (8.0, 18.5),
    "18.5 to 19.2": (18.5, 19.2),
}
STEPS = (1, 10, 100, 1000)
HIDDEN_SIZES = (32, 128, 512, 1024)
BATCH = 4


def tanh(values):
    """Returns the library's tanh of values (N,), N a multiple of 8: the first step from zeros."""
    projections = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    weight_hh = projections.new_zeros(8, 8)
    output, _ = rnnfused.functional.rnn(projections.reshape(1, -1, 8), weight_hh)
    return output.reshape(-1)


def ulps(got, exact, mantissa, least_exponent):
    """The errors of got, in units of the last place of float64 `exact`, in a format with `mantissa` bits."""
    exponent = np.maximum(np.frexp(exact)[1], least_exponent)
    return np.abs(got - exact) / np.ldexp(1.0, exponent - mantissa)


def of_float32(step):
    """Measures every `step`-th float32 value from 0 on; negative values give the same with the other sign."""
    worst, worst_at, total, count = 0.0, 0.0, 0.0, 0
    monotone, odd, last = True, True, 0.0
    end = int(np.float32(SATURATED).view(np.uint32))
    for start in tqdm(range(0, end, CHUNK * step), "float32", leave=False, disable=None):
        bits = np.arange(start, start + CHUNK * step, step, dtype=np.uint32)
        x = bits.view(np.float32)
        got = tanh(x).numpy()
        error = ulps(got.astype(np.float64), np.tanh(x.astype(np.float64)), 24, -125)
        largest = int(error.argmax())
        if error[largest] > worst:
            worst, worst_at = float(error[largest]), float(x[largest])
        total, count = total + float(error.sum()), count + len(x)
        monotone &= bool(got[0] >= last and (np.diff(got) >= 0).all())
        odd &= bool((tanh(-x).numpy().view(np.uint32) == got.view(np.uint32) | 1 << 31).all())
        last = got[-1]
    beyond = np.arange(end, 0x7F800000 + 8, max(step, 7), dtype=np.uint32)
    beyond = np.append(beyond, np.full(-len(beyond) % 8, 0x7F800000, np.uint32)).view(np.float32)
    return {
        "worst_ulp": worst,
        "worst_at": worst_at,
        "mean_ulp": total / count,
        "values": count,
        "monotone": monotone,
        "odd": odd,
        "saturates": bool((tanh(beyond[beyond >= SATURATED].repeat(8)).numpy() == 1).all()),
        "special": special_values(torch.float32),
    }


def special_values(dtype):
    """Whether zeros, infinities, NaN and the least subnormal numbers are right, with their signs."""
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    x = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, least, -least, 0.0], dtype=dtype)
    expected = torch.tensor([0.0, -0.0, 1.0, -1.0, torch.nan, least, -least, 0.0], dtype=dtype)
    got = tanh(x)
    same = (got == expected) & (got.signbit() == expected.signbit())
    return bool((same | (got.isnan() & expected.isnan())).all())


def of_16_bits(dtype):
    """Measures all 65,536 values of bfloat16 or float16: the share that is not the nearest."""
    x = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(dtype)
    got, exact = tanh(x), x.double().tanh()
    nearest = exact.to(dtype)
    wrong = (got != nearest) & ~(got.isnan() & nearest.isnan())
    return {
        "not_nearest": wrong.double().mean().item(),
        "worst_ulp": float(
            ulps(
                got.double().nan_to_num().numpy(),
                exact.nan_to_num().numpy(),
                8 if dtype == torch.bfloat16 else 11,
                -125 if dtype == torch.bfloat16 else -13,
            ).max()
        ),
        "special": special_values(dtype),
    }


def of_float64(count):
    """Measures `count` values of each region against mpmath."""
    mpmath.mp.dps = 60
    generator = np.random.default_rng(0)
    regions, worst = {}, 0.0
    for name, (low, high) in tqdm(REGIONS.items(), "float64", leave=False, disable=None):
        x = np.exp(generator.uniform(np.log(low), np.log(high), count))
        errors = []
        for value, result in zip(x, tanh(x).numpy(), strict=True):
            exact = mpmath.tanh(mpmath.mpf(float(value)))
            unit = mpmath.mpf(2) ** (max(int(mpmath.floor(mpmath.log(exact, 2))), -1022) - 52)
            errors.append(float(abs(mpmath.mpf(float(result)) - exact) / unit))
        regions[name] = {"worst_ulp": max(errors), "mean_ulp": sum(errors) / count}
        worst = max(worst, *errors)
    x = np.sort(np.exp(generator.uniform(np.log(1e-10), np.log(20), 1 << 20)))
    got = tanh(x).numpy()
    return {
        "worst_ulp": worst,
        "regions": regions,
        "values": count * len(regions),
        "monotone": bool((np.diff(got) >= 0).all()),
        "odd": bool((tanh(-x).numpy() == -got).all()),
        "special": special_values(torch.float64),
    }


def of_tanh(quick):
    """Measures tanh on the instruction set of this process."""
    torch.set_num_threads(os.cpu_count())
    return {
        "float32": of_float32(4999 if quick else 1),
        "bfloat16": of_16_bits(torch.bfloat16),
        "float16": of_16_bits(torch.float16),
        "float64": of_float64(200 if quick else 10_000),
    }


def in_process(capability, quick):
    """Returns of_tanh() of an instruction set, measured in a process of its own."""
    code = f"import json, accuracy, rnnfused; rnnfused.cpu_capability(); print(json.dumps(accuracy.of_tanh({quick})))"
    environment = os.environ | {"RNNFUSED_CPU_CAPABILITY": capability}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=None if sys.stderr.isatty() else subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"tanh on {capability}: {done.stderr}")
    return json.loads(done.stdout)


def loop_errors():
    """Returns a record per implementation, T and H: the largest and the mean error of its states, against float64."""
    records = []
    for hidden_size in tqdm(HIDDEN_SIZES, "loops", leave=False, disable=None):
        torch.manual_seed(0)
        module = rnnfused.RNN(hidden_size, hidden_size)
        x = torch.randn(max(STEPS), BATCH, hidden_size)
        state = module.state_dict()
        reference = torch.nn.RNN(hidden_size, hidden_size, dtype=torch.float64)
        reference.load_state_dict(state)
        exact = reference(x.double())[0].detach()
        forward = {"rnnfused": ways(module, x, x)["forward"]}
        for name in ("nn.RNN", "jax", "onnxruntime"):
            try:
                forward[name] = PEERS[name](state, x, x)["forward"]
            except ImportError:
                continue
        for name, run in forward.items():
            states = torch.from_numpy(np.array(run())).reshape(exact.shape).double()
            for steps in STEPS:
                error = (states[steps - 1] - exact[steps - 1]).abs()
                records.append(
                    {
                        "implementation": name,
                        "T": steps,
                        "H": hidden_size,
                        "largest": error.max().item(),
                        "mean": error.mean().item(),
                    }
                )
    return records


def main():
    """Measures everything and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="every 4,999th value, written nowhere")
    quick = parser.parse_args().quick
    best = CAPABILITIES.index(rnnfused.cpu_capability())
    measured = {name: in_process(name, quick) for name in CAPABILITIES[: best + 1]}
    results = {
        "date": date.today().isoformat(),
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "tanh": measured,
        "loops": loop_errors(),
    }
    if quick:
        print(json.dumps(results, indent=1))
    else:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
