// Every kernel of the CUDA worker.
#include "attend_tile.cuh"
#include "ceilings.cuh"
#include "gemm.cuh"
#include "pass.cuh"
#include "products.cuh"
#include "reduce.cuh"
#include "solve.cuh"
#include "svd.cuh"
