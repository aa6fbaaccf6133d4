// Every kernel of the CUDA worker.
#include "ceilings.cuh"
#include "pass.cuh"
#include "products.cuh"
#include "reduce.cuh"
