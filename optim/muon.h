// Muon: the momentum of a matrix, made orthogonal by Newton-Schulz iterations in the gradient's
// dtype. Ref: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; Liu et
// al. 2025, "Muon is scalable for LLM training", for the second scale.
#pragma once

#include "optim/optimizer_entry.h"

namespace thimble {

extern const OptimizerEntry kMuonEntry;

struct MuonOptions {
  enum class ScaleType : std::uint8_t {
    kSpectral,  // sqrt(max(1, out / in)): published lr 0.02
    kMatchRms,  // 0.2 sqrt(max(out, in)): updates as large as AdamW's, its lr and decay serve
  };
  double momentum = 0.95;
  bool nesterov = true;
  int iterations = 5;
  double weight_decay = 0.1;
  ScaleType scale_type = ScaleType::kMatchRms;
  StateFormat state = StateFormat::kF32;
};

/// State: momentum. Needs whole matrices. FLOPs 20 s^2 L + 10 s^3 for an L x s matrix.
class Muon final : public GpuOptimizer {
 public:
  explicit Muon(const MuonOptions& options = {}) : options_(options) {}
  OptimizerNeed needs(const ParamInfo&) const override {
    return {.kind = OptimizerNeed::Kind::kWhole};
  }
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override;
  void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const override;

 private:
  MuonOptions options_;
};

/// Makes x [rows, columns], rows >= columns, nearly orthogonal in place: its singular values go to
/// about 1 (0.7 to 1.2 after 5 iterations).
void newton_schulz(Arena& arena, const Tensor& x, int iterations);

}  // namespace thimble
