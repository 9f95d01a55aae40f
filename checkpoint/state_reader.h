// Where saved state is read from: a checkpoint on disk, or snapshots in memory. Which tensors it
// has, and ranges of their bytes, whoever wrote them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "checkpoint/checkpoint_tensor.h"

namespace thimble {

class StateReader {
 public:
  virtual ~StateReader() = default;
  virtual std::int64_t step() const = 0;
  /// The writer's JSON text.
  virtual const std::string& metadata() const = 0;
  /// For messages: "/runs/demo/checkpoints/ckpt-20", "the snapshot of step 20".
  virtual std::string name() const = 0;
  /// UserError unless it holds exactly these tensors, with these types, shapes and orders.
  virtual void require(std::span<const CheckpointTensor> expected) const = 0;
  /// Fills `destination` with the tensor's stored bytes from `byte_offset` on; the tensor must
  /// exist and hold them. Throws SystemError.
  virtual void read(std::string_view tensor, std::string_view slot, std::int64_t byte_offset,
                    std::span<std::byte> destination) const = 0;
};

/// UserError unless the two are the same, in whatever order; `where` names the found ones.
void require_tensors(std::span<const CheckpointTensor> expected,
                     std::span<const CheckpointTensor> found, const std::string& where);

}  // namespace thimble
