// The weights of a checkpoint as a source for a model.
#pragma once

#include "checkpoint/checkpoint_reader.h"
#include "core/nn/param.h"

namespace thimble {

/// Reads the master (or, for a frozen parameter, the weight) of each parameter. The reader must
/// outlive the source.
class CheckpointSource final : public TensorSource {
 public:
  explicit CheckpointSource(const CheckpointReader& reader, Arena& arena)
      : reader_(reader), arena_(arena) {}
  void read(const ParamInfo& info, Slice slice, const Tensor& dst) override;

 private:
  const CheckpointReader& reader_;
  Arena& arena_;
};

}  // namespace thimble
