// How Megatron-LM keeps a model of the Llama family: under the names of Megatron Core, cut over
// tensor-parallel ranks (rows or columns of a matrix) and pipeline-parallel ranks (layers). Reader
// and writer both go by this.
#pragma once

#include <string>
#include <vector>

#include "models/model_config.h"

namespace thimble {

struct MegatronRanks {
  std::int64_t tensor = 1;
  std::vector<std::int64_t> layers;  // of each pipeline-parallel rank
};

/// A run of rows of a tensor of one rank, all its columns, and the box of a parameter that they
/// are. Vectors are matrices of one column.
struct MegatronPart {
  std::int64_t tensor_rank = 0, pipeline_rank = 0;
  std::string name = {};  // of the tensor
  std::int64_t row = 0;   // of the tensor
  std::int64_t from_row = 0, from_column = 0, rows = 0, columns = 1;
  bool is_on_all = false;  // every tensor-parallel rank has the same
};

/// Where the parameter of that Hugging Face name lies, in the order of its rows. An embedding's
/// tensors have `padded_vocab` rows in all, of which the first vocab_size are its own.
std::vector<MegatronPart> megatron_parts(const ModelConfig& config, const MegatronRanks& ranks,
                                         std::int64_t padded_vocab, const std::string& parameter);

/// The name that a norm has where layers are those of Megatron itself and not Transformer Engine's;
/// else the same name.
std::string megatron_local_name(const std::string& name);

}  // namespace thimble
