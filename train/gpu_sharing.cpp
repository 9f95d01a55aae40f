#include "train/gpu_sharing.h"

#include <algorithm>
#include <map>

#include "core/base/numeric.h"
#include "core/device/gpu.h"
#include "parallel/collectives.h"

namespace thimble {

int ranks_on_a_gpu(Communicator& comm) {
  const auto own = gpu_driver()->current().uuid;
  const auto all = all_gather_control(comm, "GPUs", std::as_bytes(std::span(own)));
  std::map<std::vector<std::byte>, int> ranks;
  int most = 1;
  for (auto gpu = all.begin(); gpu != all.end(); gpu += own.size())
    most = std::max(most, ++ranks[{gpu, gpu + own.size()}]);
  return most;
}

int ranks_on_a_gpu(int ranks_on_node) {
  return gpu_count() == 0 ? 1 : narrow<int>(ceil_div(ranks_on_node, gpu_count()));
}

}  // namespace thimble
