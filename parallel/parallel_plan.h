// Who owns what. A pure function of the parameters, what the optimizer needs of them, and the
// number of ranks: every rank computes the same plan, no message is needed, and any world size can
// be planned on one machine.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/nn/optimizer.h"
#include "core/nn/row_partition.h"

namespace thimble {

/// How a parameter's optimizer state (and, by stage, gradient and weight) lies on the ranks.
enum class Placement : std::uint8_t {
  kReplicated,  // all of it on every rank
  kRows,        // rows of the logical [out, in] matrix
  kColumns,     // columns of it: the rows of a matrix that is stored transposed
  kWhole,       // all of it on one rank
};
const char* placement_name(Placement placement);

struct ShardSpec {
  Placement placement = Placement::kReplicated;
  RowPartition rows;
};

struct ParallelOptions {
  int ranks = 1;
  /// ZeRO: 0 nothing is sharded, 1 optimizer state, 2 also gradients, 3 also weights (Rajbhandari
  /// et al. 2020).
  int stage = 0;
  /// Parameters up to this size are not cut: a message of their own costs more than their bytes.
  std::int64_t small_elements = 16384;
};

/// What one rank sends in one optimizer step, as the communicator counts it.
struct StepTraffic {
  std::int64_t reduce_bytes = 0;  // gradients
  std::int64_t gather_bytes = 0;  // weights (stage 0: reduced gradients)
  std::int64_t operations = 0;    // collectives on tensors, if somebody counted them
  std::int64_t total() const { return reduce_bytes + gather_bytes; }
};

inline constexpr std::int64_t kNotUpdated = -1;

class ParallelPlan {
 public:
  using Needs = std::function<OptimizerNeed(const ParamInfo&)>;
  /// Throws UserError naming both if the ranks or the stage make no sense.
  ParallelPlan(const ParamTable& params, const Needs& needs, const ParallelOptions& options);

  int ranks() const { return options_.ranks; }
  int stage() const { return options_.stage; }
  const ShardSpec& spec(ParamId id) const { return specs_.at(static_cast<std::size_t>(id)); }
  /// The rows whose gradient is summed on this rank.
  Slice reduced(ParamId id, int rank) const { return spec(id).rows.slice(rank); }
  /// The rows that this rank updates: at stage 0 every rank updates everything.
  Slice updated(ParamId id, int rank) const;

  /// int8: which weights travel in 8 bits with their scales; empty: none. projections: elements of
  /// a row of what is sent in place of a gradient, 0 of one that is sent itself; empty: all are;
  /// kNotUpdated: neither gradient nor weight is sent.
  /// `accumulation_steps` micro-batches a step; gathers[id]: how often a micro-batch gathers the
  /// parameter at stage 3.
  StepTraffic step_traffic(const ParamTable& params, int rank, std::int64_t accumulation_steps,
                           DType comm_dtype, DType weights, const std::vector<int>& gathers,
                           const std::vector<bool>& int8 = {},
                           const std::vector<std::int64_t>& projections = {}) const;

 private:
  ParallelOptions options_;
  std::vector<ShardSpec> specs_;
  std::vector<Slice> wholes_;
};

}  // namespace thimble
