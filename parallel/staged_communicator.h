// Lets ranks whose tensors are on a GPU use a communicator that moves memory of the host: tensors
// are copied through pinned staging buffers.
#pragma once

#include "core/device/arena.h"
#include "parallel/communicator.h"

namespace thimble {

/// Copies pieces of tensors (Purpose::kTensor) to arena.pinned() and, when they have arrived, back;
/// control messages are the host's anyway. For devices without a communicator of their own.
class StagedCommunicator final : public Communicator {
 public:
  /// Both must outlive it.
  StagedCommunicator(Communicator& host, Arena& arena) : host_(host), arena_(arena) {}

  int rank() const override { return host_.rank(); }
  int size() const override { return host_.size(); }
  Completion start(const OpLabel& label, Purpose purpose, Exchange exchange) override;
  void set_time_limit(std::chrono::milliseconds limit) override { host_.set_time_limit(limit); }
  void abort(const std::string& reason) noexcept override { host_.abort(reason); }
  Traffic traffic() const override { return host_.traffic(); }

 private:
  Communicator& host_;
  Arena& arena_;
};

}  // namespace thimble
