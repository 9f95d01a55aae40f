// What one rank reaches: measured here, or given.
#pragma once

namespace thimble {

/// Of updates beside a GPU, in bytes of memory that they read and write, and of copies; 0: not
/// known.
struct UpdateRates {
  double cpu_bytes_per_s = 0, gpu_bytes_per_s = 0;
  double to_gpu_bytes_per_s = 0, to_host_bytes_per_s = 0;
  bool are_known() const { return cpu_bytes_per_s > 0; }
};

struct Rates {
  double flops_per_s = 0;       // of matmuls
  double bytes_per_s = 0;       // sent to other ranks
  double disk_bytes_per_s = 0;  // read and written at once; 0: not known
  UpdateRates updates = {};
};

}  // namespace thimble
