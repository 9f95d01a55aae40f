// The weights of a checkpoint as a source for a model.
#pragma once

#include "checkpoint/checkpoint_reader.h"
#include "core/nn/param.h"

namespace thimble {

/// Reads the master (or, for a frozen parameter, the weight) of each parameter; for a model in bf16
/// the bf16 weight itself where the checkpoint has one, so that it is the one that was trained
/// with. The reader must outlive the source.
class CheckpointSource final : public TensorSource {
 public:
  CheckpointSource(const CheckpointReader& reader, Arena& arena, DType wanted = DType::kF32)
      : reader_(reader), arena_(arena), wanted_(wanted) {}
  void read(const ParamInfo& info, Slice slice, const Tensor& dst) override;

 private:
  const CheckpointReader& reader_;
  Arena& arena_;
  DType wanted_;
};

}  // namespace thimble
