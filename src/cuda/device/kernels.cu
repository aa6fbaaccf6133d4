// Every kernel of the CUDA worker.
#include "pass.cuh"
#include "products.cuh"
#include "reduce.cuh"
