// Marks functions that GPUs compute too: written once, so that what tests prove on the CPU holds
// there. constexpr functions need no mark.
#pragma once

#ifdef __CUDACC__
#define TH_HOST_DEVICE __host__ __device__
#else
#define TH_HOST_DEVICE
#endif
