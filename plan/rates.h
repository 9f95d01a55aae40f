// What one rank reaches: measured here, or given.
#pragma once

namespace thimble {

struct Rates {
  double flops_per_s = 0;       // of matmuls
  double bytes_per_s = 0;       // sent to other ranks
  double disk_bytes_per_s = 0;  // read and written at once; 0: not known
};

}  // namespace thimble
