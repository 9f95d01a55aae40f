// Compute weights of which some are kept in 8 bits, on every rank; they exist in full precision
// only while one matmul reads them.
#pragma once

#include "parallel/weight_stores.h"

namespace thimble {

/// Rows to which slices of an 8-bit weight are aligned, so that no group of scales is cut.
std::int64_t int8_granule_rows(const ParamInfo& info);
/// Stages 0, 1, 2.
class QuantisedStore final : public ResidentRowsStore {
 public:
  /// In 8 bits is what has an entry of scales. The plan aligns its slices by int8_granule_rows().
  QuantisedStore(Arena& arena, const StoreParts& parts);

  const ParamTable& params() const override { return params_; }
  void pin_block(BlockId) override {}
  void unpin_block(BlockId) override {}
  /// For an 8-bit weight: a copy in the compute dtype, which belongs to the caller.
  Tensor view(ParamId id) override;
  Tensor prepacked(ParamId, const MatmulSpec&) override { return {}; }
  std::int64_t version(ParamId id) const override { return versions_.at(index(id)); }
  void changed(ParamId id) override;
  void publish() override { rows_.publish(); }
  bool stays_in_place() const override { return true; }

 private:
  Tensor held(const StateEntry& entry) override;
  static std::size_t index(ParamId id) { return static_cast<std::size_t>(id); }
  Arena& arena_;
  const ParamTable& params_;
  DType dtype_;
  const ParallelPlan& plan_;
  Communicator& comm_;
  std::vector<Tensor> weights_;  // or codes
  std::vector<Tensor> scales_;   // undefined: not in 8 bits
  std::vector<std::int64_t> versions_;
  ChangedRows rows_;  // after what is sent and received, so that its transfers end first
};

}  // namespace thimble
