// The adapters of a model's linear layers: which have one, their parameters under PEFT's names, and
// the layers' arithmetic with them.
#pragma once

#include <optional>
#include <unordered_map>
#include <vector>

#include "core/nn/adapted_linear.h"
#include "core/nn/packed_matrix.h"
#include "models/adapter_config.h"

namespace thimble {

/// The matrix of a linear layer: a parameter, or packed.
struct LinearMatrix {
  Weight weight;
  ParamInfo info;
};

/// The adapter of one matrix.
struct AdaptedMatrix {
  Weight weight;
  ParamInfo info;      // of the matrix
  std::string module;  // its name without ".weight"
  LinearAdapter adapter;
  /// Of a start from the largest singular values: where a and b began, never trained.
  Weight first_a, first_b;
};

class Adapters {
 public:
  /// None.
  Adapters() = default;
  /// Adds its parameters to the model's, whose others it freezes. `linears`: those of the linear
  /// layers; `blocks`: of each parameter, the block in which it is first used. Throws UserError, in
  /// terms of "[adapter]", for a module that there is not and for a rank that a matrix has not got.
  Adapters(const AdapterConfig& config, const std::vector<LinearMatrix>& linears,
           ParamTable& params, std::vector<BlockId>& blocks);

  bool empty() const { return !config_.has_value(); }
  const AdapterConfig& config() const { return *config_; }
  const std::vector<AdaptedMatrix>& matrices() const { return matrices_; }
  /// The parameters that several layers read, and the blocks of these, ascending.
  const std::vector<ParamId>& shared() const { return shared_; }
  std::vector<BlockId> shared_blocks() const;
  const AdaptedMatrix* find(Weight weight) const;
  /// By the name of the matrix.
  const AdaptedMatrix* find(std::string_view name) const;

  /// Where packed matrices are; it must outlive this. Before the first forward pass.
  void set_packed(const PackedMatrices& packed) { packed_ = &packed; }
  /// x W^T + bias with what the matrix has beside it.
  Var linear(Context& ctx, const Var& x, Weight weight, Weight bias) const;

 private:
  void add(ParamTable& params, std::vector<BlockId>& blocks, const LinearMatrix& linear);
  void add_low_rank(AdaptedMatrix& matrix, ParamTable& params, std::vector<BlockId>& blocks);
  void add_shared(const std::vector<LinearMatrix>& linears, ParamTable& params,
                  std::vector<BlockId>& blocks);

  std::optional<AdapterConfig> config_;
  std::vector<AdaptedMatrix> matrices_;
  std::unordered_map<std::int32_t, std::size_t> by_weight_;
  std::vector<ParamId> shared_;
  const PackedMatrices* packed_ = nullptr;
};

/// "model.layers.0.self_attn.q_proj" of "model.layers.0.self_attn.q_proj.weight".
std::string module_of(std::string_view tensor);

}  // namespace thimble
