#include "parallel/communicator.h"

#include <atomic>

#include "core/base/error.h"

namespace thimble {

std::string describe_operation(std::int64_t number, const OpLabel& label) {
  return fmt::format("{} #{} of {}", label.operation, number, label.subject);
}

void Traffic::count(Purpose purpose, const Exchange& exchange) {
  if (purpose == Purpose::kTensor) ++tensor_operations;
  for (const auto& pieces : exchange.send) {
    for (const Bytes piece : pieces) {
      (purpose == Purpose::kTensor ? tensor_bytes : control_bytes) +=
          static_cast<std::int64_t>(piece.size());
    }
  }
}

void Traffic::count(const std::vector<RowSum>& sums) {
  ++tensor_operations;
  for (const RowSum& sum : sums)
    tensor_bytes += static_cast<std::int64_t>(sum.all.size() - sum.mine.size());
}

Completion Communicator::start_sum(const OpLabel&, std::vector<RowSum>) {
  throw_user(
      "parallelism.reduction = \"nccl\" needs a program with NCCL and a GPU of its own for each "
      "rank; "
      "allowed here: ordered");
}

namespace {

std::atomic<GpuCommunicatorFactory> registered{nullptr};

}  // namespace

void register_gpu_communicator(GpuCommunicatorFactory make) {
  registered = make;
}

GpuCommunicatorFactory gpu_communicator() {
  return registered;
}

}  // namespace thimble
