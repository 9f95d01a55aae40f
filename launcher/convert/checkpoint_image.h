// A checkpoint of any format, as what it means: parameters under their Hugging Face names with
// their optimizer state, and where training stands. Holds no values: arrays are read when a writer
// asks for them. The read_*.cpp make images, the write_*.cpp write them.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "launcher/convert/stored_array.h"
#include "models/model_config.h"
#include "models/transformer.h"

namespace thimble {

inline constexpr const char* kEmbeddingName = "model.embed_tokens.weight";
inline constexpr const char* kHeadName = "lm_head.weight";

/// One parameter. Moments are those of Adam (Kingma & Ba 2015, algorithm 1), not corrected for
/// their bias.
struct ImageParam {
  StoredArray weight = {};                 // as the model computes with
  std::optional<StoredArray> master = {};  // of more precision than the weight
  std::optional<StoredArray> exp_avg = {}, exp_avg_sq = {};

  const StoredArray& best() const { return master ? *master : weight; }
};

struct AdamSettings {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01;
};

/// What belongs to a model besides its weights.
struct ModelOrigin {
  ModelConfig config = {};
  std::string source_config = {};        // text of the config.json that came with it; empty: none
  std::filesystem::path model_dir = {};  // whose files are carried along; empty: none
  std::filesystem::path tokenizer = {};  // directory, file or empty
  bool byte_tokenizer = false;

  std::filesystem::path tokenizer_or_marker() const {
    return byte_tokenizer ? std::filesystem::path("byte") : tokenizer;
  }
};

struct CheckpointImage {
  std::string kind = {};            // "DeepSpeed ZeRO-2 checkpoint of 2 ranks"
  std::filesystem::path path = {};  // what was opened
  std::map<std::string, ImageParam> params = {};
  std::map<std::string, std::string> aliases = {};  // names without values of their own
  DType dtype = DType::kF32;                        // that the model computes with
  std::int64_t step = 0;                            // optimizer steps done; 0: not known
  std::int64_t tokens_seen = 0;
  std::optional<AdamSettings> adam = {};   // where the source says it
  std::optional<ModelOrigin> origin = {};  // where the source has a configuration
  std::vector<std::string> notes = {};     // what was left out, for the user
  bool reads_whole_tensors = false;        // by one thread: values are kept from read to read
  bool vocab_is_padded = false;            // embedding and LM head may have rows that no token has
  std::string why_no_state = "the source holds no optimizer state";

  /// Whether every parameter has both moments.
  bool has_state() const;
};

/// Without what wrappers (DDP, torch.compile, FSDP, activation checkpointing) put into names.
std::string parameter_name(std::string_view stored);

/// Adds a parameter under its own name; UserError if there is one of that name.
ImageParam& add_param(CheckpointImage& image, const std::string& stored_name, StoredArray weight);

/// The parameters of a model in its own order. All that are missing, misshapen or not known are in
/// one UserError. Left out with a note: rotary_emb.inv_freq, lm_head.weight of a tied model.
std::vector<ImageParam> params_of_model(CheckpointImage& image, const ParamTable& params);

/// Names in the order in which transformers' models of the Llama family define them; others last,
/// by name. The order of torch's optimizers.
std::vector<std::string> definition_order(const CheckpointImage& image);

/// Calls body(first element, elements) with whole rows of the array, about `bytes` of them at a
/// time, in order.
template <typename Body>
void for_rows(const StoredArray& array, std::int64_t bytes, Body&& body) {
  const std::int64_t row = array.row(), numel = array.numel(), size = dtype_size(array.dtype);
  const std::int64_t step = std::max<std::int64_t>(1, bytes / (row * size)) * row;
  for (std::int64_t first = 0; first < numel; first += step)
    body(first, std::min(step, numel - first));
}

}  // namespace thimble
