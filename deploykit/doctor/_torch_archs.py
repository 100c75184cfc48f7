"""Runs alone, as a program: what torch has kernels for, and whether one runs on each GPU. Never imported."""

import json

import torch


def main() -> dict[str, object]:
    flags = getattr(torch._C, "_cuda_getArchFlags", lambda: "")() or ""
    problems = []
    for index in range(torch.cuda.device_count()):
        try:
            if int((torch.arange(4, device=f"cuda:{index}") + 1).sum()) != 10:
                problems.append(f"GPU {index}: 1 + 2 + 3 + 4 is not 10 there")
        except Exception as error:  # "no kernel image is available", and whatever else the driver says
            problems.append(f"GPU {index}: {str(error).strip().splitlines()[0]}")
    try:
        nccl = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    except Exception:
        nccl = ""
    return {"archs": flags.split(), "problems": problems, "nccl": nccl, "count": torch.cuda.device_count()}


if __name__ == "__main__":
    print(json.dumps(main()))
