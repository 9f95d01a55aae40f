// GaLore: Adam in a low-rank subspace of the gradient that follows its leading singular vectors.
// What is built on it is a composition with other parts: Fira and Natural GaLore add a second
// round, Q-GaLore refreshes lazily, LDAdam rotates moments and feeds errors back. Ref: Zhao et al.
// 2024, "GaLore: memory-efficient LLM training by gradient low-rank projection", algorithm 2.
#pragma once

#include "optim/error_feedback.h"
#include "optim/ldadam.h"
#include "optim/q_galore.h"
#include "optim/second_round.h"
#include "optim/subspace_refresh.h"

namespace thimble {

extern const OptimizerEntry kGaloreEntry, kGalore8BitEntry;

/// What is composed with GaLore; each part is described in its own header.
struct GaloreParts {
  std::unique_ptr<const SecondRound> second_round = nullptr;  // Fira, NaturalGradient
  std::optional<LazyRefresh> lazy = {};
  std::optional<MomentRotation> rotation = {};
  std::optional<ErrorFeedback> error_feedback = {};
};

/// State: 2 r values per long row, P [s, r], and what the parts keep. Sums over slices: at a
/// refresh s r numbers per iteration (exact: s s), and those of the second round.
class Galore final : public Optimizer, public MultiRoundUpdate, public GradientProjector {
 public:
  explicit Galore(const GaloreOptions& options, GaloreParts parts = {})
      : options_(options), refresh_(options), parts_(std::move(parts)) {}
  OptimizerNeed needs(const ParamInfo& info) const override;
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override;
  void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const override;
  /// Steps that leave the subspace as it is; refreshes decompose small matrices on the host.
  bool runs_on_gpu(const ParamInfo& info, std::int64_t step) const override;

  const MultiRoundUpdate* multi_round(const ParamInfo&) const override { return this; }
  int rounds(const ParamInfo& info, std::int64_t step) const override;
  SumCount sums(const ParamInfo& info, std::int64_t step, int round) const override;
  std::int64_t carry_bytes(const ParamInfo& info, Slice slice, std::int64_t step) const override;
  StateAccess access(const ParamInfo& info, const StateSlot& slot, std::int64_t step,
                     int round) const override;

  const GradientProjector* projector(const ParamInfo&) const override {
    return options_.project_gradients ? this : nullptr;
  }
  std::int64_t projected_width(const ParamInfo& info, std::int64_t step) const override;
  void project_gradient(const UpdateArgs& args, const Tensor& out) const override;
  /// At the first step a first basis is made.
  StateAccess projector_access(const ParamInfo&, std::int64_t step) const override {
    return step == 1 ? StateAccess::kChange : StateAccess::kRead;
  }

 private:
  // The state of the parts, as far as there are any.
  struct PartState {
    std::span<const Tensor> second_round;
    Tensor lazy, error;
  };
  PartState part_state(const UpdateArgs& args) const;
  void contribute(const Subspace& s, const PartState& kept, int iteration, RoundSums& out) const;
  Tensor adopt(const Subspace& s, const PartState& kept, const RoundSums& in) const;

  GaloreOptions options_;
  SubspaceRefresh refresh_;
  GaloreParts parts_;
};

/// What a user has set of GaLore's options; what is left out is that of `defaults`.
GaloreOptions galore_options(const OptimizerSettings& settings, GaloreOptions defaults,
                             StateFormat state);

}  // namespace thimble
