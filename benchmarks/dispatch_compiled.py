"""What the compilers make of the dispatcher's kernel, for a GPU that need not be there.

Run: python benchmarks/dispatch_compiled.py [COMPUTE_CAPABILITY], 90 unless said (H100, H200)

Registers of a thread, bytes that did not fit into them, shared memory, seconds of compiling.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

from triton import compile as compiled
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from heuristics.dispatch.fused import sizes
from heuristics.dispatch.kernel import shares_and_tokens_kernel

SHAPES = [(32, 40, 8), (128, 144, 16), (256, 288, 32), (256, 320, 64), (256, 288, 72)]
POINTERS = {"loads": "*i64"}
POINTERS |= dict.fromkeys(("phy2log", "experts", "copies", "cell", "first"), "*i32")
POINTERS |= {"share_tiles": "*fp32", "token_tiles": "*i64", "shares": "*fp32", "tokens": "*i64"}


def main(capability: int) -> None:
    print(f"sm_{capability}: threads, registers and bytes spilled of each, bytes shared, seconds")
    for num_experts, num_slots, num_ranks in SHAPES:
        constants = sizes(num_experts, num_slots, num_ranks)
        warps = constants.pop("num_warps")
        signature = POINTERS | {"num_layers": "i32", "sweeps": "i32"}
        signature |= dict.fromkeys(constants, "constexpr")
        start = time.perf_counter()
        source = ASTSource(shares_and_tokens_kernel, signature, constants)
        kernel = compiled(source, GPUTarget("cuda", capability, 32), {"num_warps": warps})
        seconds = time.perf_counter() - start
        with tempfile.NamedTemporaryFile("w", suffix=".ptx") as ptx:
            ptx.write(kernel.asm["ptx"])
            ptx.flush()
            gpu = f"--gpu-name=sm_{capability}{'a' if capability >= 90 else ''}"
            command = [get_ptxas(capability).path, "-v", gpu, ptx.name, "-o", "/dev/null"]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        registers = said.split("Used ")[1].split(" registers")[0]
        spilled = said.split(" bytes spill stores")[0].split()[-1]
        shape = f"({num_experts}, {num_slots}, {num_ranks})"
        shared = kernel.metadata.shared
        print(
            f"{shape:<16} {32 * warps:>5} {registers:>5} {spilled:>6} {shared:>8} {seconds:>5.1f}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 90)
