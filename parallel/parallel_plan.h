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

/// What the traffic of an optimizer step depends on, besides who owns what.
struct TrafficTerms {
  std::int64_t micro_batches = 1;   // per step and rank
  std::int64_t weight_passes = 1;   // of them, that gather weights of their own
  DType comm_dtype = DType::kBF16;  // of gradients
  DType weight_dtype = DType::kBF16;
  /// By parameter: how often one of these gathers it at stage 3.
  std::vector<int> gathers_per_micro_batch;
  /// By parameter: whether its weight travels in 8 bits, with its scales. Empty: none does.
  std::vector<bool> int8_weights = {};
  /// By parameter: elements per row of the projection that is sent in place of the gradient; 0: the
  /// gradient itself is sent; kNotUpdated: neither gradient nor weight is. Empty: all are sent.
  std::vector<std::int64_t> projected_widths = {};
};

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

  /// What the rank sends in one optimizer step; the number of operations is not known here.
  StepTraffic step_traffic(const ParamTable& params, int rank, const TrafficTerms& terms) const;

 private:
  ParallelOptions options_;
  std::vector<ShardSpec> specs_;
  std::vector<Slice> wholes_;
};

}  // namespace thimble
