"""GPUs for the planner of csrc/cuda, and a table of its choices: python tests/kernels/cuda_gpus.py."""

# Multiprocessors, shared memory and clocks by NVIDIA's data sheets. Clusters that run at once: as measured on an H100.
GPUS = {
    "H100": dict(
        multiprocessors=132,
        shared_kilobytes=227,
        major=9,
        minor=0,
        gigahertz=1.755,
        clusters={2: 66, 4: 30, 8: 15, 16: 7},
    ),
    "A100": dict(multiprocessors=108, shared_kilobytes=163, major=8, minor=0, gigahertz=1.41),
    "L4": dict(multiprocessors=58, shared_kilobytes=99, major=8, minor=9, gigahertz=2.04),
    "RTX 5090": dict(multiprocessors=170, shared_kilobytes=99, major=12, minor=0, gigahertz=2.41),
}
# (steps, batch, hidden): the calls that gpu-check must time.
SHAPES = [
    (512, 1, 512),
    (512, 16, 512),
    (512, 64, 512),
    (1024, 64, 1024),
    (256, 256, 1024),
    (2048, 32, 256),
    (32, 1024, 32),
]


def table(module):
    """Markdown: for each GPU, shape and dtype the plan, its expected step and that of torch's kernels, in us."""
    lines = ["| GPU | (steps, batch, hidden) | dtype | plan | us a step | by kernels |"]
    lines.append("|---|---|---|---|---|---|")
    for name, description in GPUS.items():
        gpu = module.Gpu(**description)
        for shape in SHAPES:
            for dtype in ("float32", "bfloat16"):
                plan = gpu.plan(dtype, shape[2], shape[1])
                found = (str(plan), f"{plan.estimated_us:.2f}") if plan.blocks else ("none", "")
                kernels = f"{gpu.by_kernels(dtype, shape[2], shape[1]):.2f}"
                lines.append(
                    f"| {name} | {shape} | {dtype} | {found[0]} | {found[1]} | {kernels} |"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    from conftest import compile_module

    print(table(compile_module("cuda_plans")))
