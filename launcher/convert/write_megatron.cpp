// Checkpoints of Megatron-LM, format "torch", of any number of tensor- and pipeline-parallel ranks:
// weights and the arguments that describe the model, for --use-checkpoint-args --no-load-optim
// --no-load-rng.
#include <algorithm>
#include <cstring>
#include <list>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "launcher/convert/image_readers.h"
#include "launcher/convert/megatron_layout.h"
#include "launcher/convert/output_files.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kVocabMultiple = 128;  // per tensor-parallel rank, Megatron's default

// Boxes of other arrays, under each other; rows that no box has are zero.
class BoxesReader final : public ArrayReader {
 public:
  struct Box {
    StoredArray from;
    MegatronPart part;
  };
  void add(StoredArray from, const MegatronPart& part) {
    boxes_.push_back({std::move(from), part});
  }

  void read(std::int64_t first, std::span<std::byte> out) const override {
    std::memset(out.data(), 0, out.size());
    for (const Box& box : boxes_) {
      const std::int64_t row_bytes = box.part.columns * dtype_size(box.from.dtype);
      const std::int64_t begin = first / box.part.columns,
                         end = begin + narrow<std::int64_t>(out.size()) / row_bytes;
      const std::int64_t from = std::max(begin, box.part.row),
                         to = std::min(end, box.part.row + box.part.rows);
      if (from >= to) continue;
      const auto place = out.subspan(static_cast<std::size_t>((from - begin) * row_bytes),
                                     static_cast<std::size_t>((to - from) * row_bytes));
      read_box(box, box.part.from_row + from - box.part.row, to - from, place);
    }
  }

 private:
  static void read_box(const Box& box, std::int64_t row, std::int64_t rows,
                       std::span<std::byte> out) {
    const std::int64_t all = box.from.row(), size = dtype_size(box.from.dtype);
    if (all == box.part.columns) return box.from.reader->read(row * all, out);
    std::vector<std::byte> whole(static_cast<std::size_t>(rows * all * size));
    box.from.reader->read(row * all, whole);
    const auto bytes = static_cast<std::size_t>(box.part.columns * size);
    for (std::int64_t r = 0; r < rows; ++r)
      std::memcpy(out.data() + static_cast<std::size_t>(r) * bytes,
                  whole.data() + (r * all + box.part.from_column) * size, bytes);
  }
  std::vector<Box> boxes_;
};

struct RankTensors {
  std::vector<std::string> order;
  std::map<std::string, std::shared_ptr<BoxesReader>> readers;
  std::map<std::string, Extents> shapes;
};

void check_cuts(const ModelConfig& c, std::int64_t tensor, std::int64_t pipeline) {
  const auto check = [](const char* option, std::int64_t ranks, const char* what,
                        std::int64_t size) {
    if (size % ranks != 0)
      throw_user("{} {}: allowed what divides the model's {} {}", option, ranks, size, what);
  };
  check("--tensor-parallel", tensor, "key and value heads", c.num_kv_heads);
  check("--tensor-parallel", tensor, "columns of the MLP", c.intermediate_size);
  check("--pipeline-parallel", pipeline, "layers", c.num_layers);
  if (!c.has_plain_layers())
    throw_user("the layers of {} have no form in Megatron that is written", c.model_type);
  if (c.out_bias || c.mlp_bias)
    throw_user("{} with biases in o_proj or the MLP has no form in Megatron that is written",
               c.model_type);
  const bool windows =
      std::any_of(c.windows.begin(), c.windows.end(), [](std::int64_t w) { return w > 0; });
  if (windows) throw_user("attention windows have no form in Megatron that is written");
  const RopeScaling& s = c.rope_scaling;
  const bool as_llama3 = s.type == RopeScaling::Type::kLlama3 && s.low_freq_factor == 1 &&
                         s.high_freq_factor == 4 && s.original_max_positions == 8192;
  if (s.type != RopeScaling::Type::kDefault && !as_llama3)
    throw_user(
        "rope_scaling: Megatron has that of Llama 3 alone (factors 1 and 4, 8192 original "
        "positions)");
}

// The file of a rank.
class RankFileWriter {
 public:
  RankFileWriter(const CheckpointImage& image, const MegatronRanks& ranks,
                 std::int64_t padded_vocab)
      : image_(image), ranks_(ranks), padded_vocab_(padded_vocab) {}

  std::shared_ptr<void> fill(TorchWriter& out, const RankTensors& tensors) const {
    PickleWriter& p = out.pickle;
    auto arrays = std::make_shared<std::list<StoredArray>>();
    p.begin_dict();
    p.text("args");
    put_arguments(p);
    p.text("checkpoint_version");
    p.number(3.0);
    p.text("iteration");
    p.integer(image_.step);
    p.text("model");
    put_ordered_dict(p);
    p.begin_items();
    for (const std::string& name : tensors.order) {
      p.text(name);
      out.tensor(arrays->emplace_back(StoredArray{.name = name,
                                                  .dtype = image_.dtype,
                                                  .shape = tensors.shapes.at(name),
                                                  .reader = tensors.readers.at(name)}));
    }
    p.end_items();
    p.end_dict();
    return arrays;
  }

 private:
  // A dict's items, by the types of their values.
  struct Items {
    PickleWriter& p;
    void integer(const char* key, std::int64_t value) const { p.text(key), p.integer(value); }
    void number(const char* key, double value) const { p.text(key), p.number(value); }
    void flag(const char* key, bool value) const { p.text(key), p.boolean(value); }
    void text(const char* key, const char* value) const { p.text(key), p.text(value); }
    void none(const char* key) const { p.text(key), p.none(); }
  };

  void put_arguments(PickleWriter& p) const {
    p.global("argparse", "Namespace");
    p.begin_tuple();
    p.end_tuple();
    p.make();
    p.begin_dict();
    put_shape({p});
    put_positions({p});
    put_training({p});
    p.end_dict();
    p.build();
  }

  void put_shape(const Items& items) const {
    const ModelConfig& c = image_.origin->config;
    items.integer("num_layers", c.num_layers);
    items.integer("hidden_size", c.hidden_size);
    items.integer("ffn_hidden_size", c.intermediate_size);
    items.integer("num_attention_heads", c.num_heads);
    items.flag("group_query_attention", c.num_kv_heads != c.num_heads);
    items.integer("num_query_groups", c.num_kv_heads);
    items.integer("kv_channels", c.head_dim);
    items.flag("swiglu", true);
    items.text("normalization", "RMSNorm");
    items.number("norm_epsilon", c.rms_eps);
    items.flag("apply_layernorm_1p", false);
    items.flag("add_bias_linear", false);
    items.flag("add_qkv_bias", c.qkv_bias);
    items.flag("qk_layernorm", c.qk_norm);
    items.flag("untie_embeddings_and_output_weights", !c.tied_lm_head);
    items.integer("vocab_size", c.vocab_size);
    items.integer("padded_vocab_size", padded_vocab_);
    items.integer("make_vocab_size_divisible_by", kVocabMultiple);
  }

  void put_positions(const Items& items) const {
    const ModelConfig& c = image_.origin->config;
    items.integer("seq_length", c.max_positions);
    items.integer("max_position_embeddings", c.max_positions);
    items.text("position_embedding_type", "rope");
    items.flag("use_rotary_position_embeddings", true);
    items.number("rotary_base", c.rope_theta);
    items.number("rotary_percent", 1.0);
    items.flag("rotary_interleaved", false);
    items.flag("use_rope_scaling", c.rope_scaling.type == RopeScaling::Type::kLlama3);
    items.number("rope_scaling_factor", c.rope_scaling.factor);
  }

  void put_training(const Items& items) const {
    items.integer("tensor_model_parallel_size", ranks_.tensor);
    items.integer("pipeline_model_parallel_size", static_cast<std::int64_t>(ranks_.layers.size()));
    items.integer("expert_model_parallel_size", 1);
    items.none("virtual_pipeline_model_parallel_size");
    items.none("num_layers_per_virtual_pipeline_stage");
    items.none("num_experts");
    items.flag("bf16", image_.dtype == DType::kBF16);
    items.flag("fp16", false);
    items.text("params_dtype", image_.dtype == DType::kBF16 ? "bfloat16" : "float32");
    items.none("tokenizer_type");
    items.none("tokenizer_model");
    items.flag("apply_query_key_layer_scaling", false);
    items.flag("sequence_parallel", false);
    items.flag("use_distributed_optimizer", false);
    items.text("ckpt_format", "torch");
    items.integer("iteration", image_.step);
    items.integer("consumed_train_samples", 0);
    items.integer("consumed_valid_samples", 0);
  }

  const CheckpointImage& image_;
  MegatronRanks ranks_;
  std::int64_t padded_vocab_;
};

}  // namespace

std::vector<OutputFile> megatron_files(const CheckpointImage& image, const WriteOptions& options) {
  TH_CHECK(image.origin.has_value());
  const ModelConfig& c = image.origin->config;
  const std::int64_t tensor = options.tensor_parallel, pipeline = options.pipeline_parallel;
  check_cuts(c, tensor, pipeline);
  const MegatronRanks ranks{.tensor = tensor,
                            .layers = std::vector<std::int64_t>(static_cast<std::size_t>(pipeline),
                                                                c.num_layers / pipeline)};
  const std::int64_t padded_vocab = round_up(c.vocab_size, kVocabMultiple * tensor);
  std::map<std::pair<std::int64_t, std::int64_t>, RankTensors> all;
  const auto place = [&](const StoredArray& weight, const MegatronPart& part) {
    const bool is_table =
        part.name == "embedding.word_embeddings.weight" || part.name == "output_layer.weight";
    for (std::int64_t t = 0; t < tensor; ++t) {
      if (!part.is_on_all && t != part.tensor_rank) continue;
      RankTensors& rank = all[{t, part.pipeline_rank}];
      std::shared_ptr<BoxesReader>& reader = rank.readers[part.name];
      if (!reader) {
        reader = std::make_shared<BoxesReader>();
        rank.order.push_back(part.name);
      }
      reader->add(weight, part);
      Extents& shape = rank.shapes[part.name];
      if (shape.empty()) shape = weight.shape.size() == 1 ? Extents{0} : Extents{0, part.columns};
      shape[0] = is_table ? padded_vocab / tensor : std::max(shape[0], part.row + part.rows);
    }
  };
  const Transformer model(c);
  for (const ParamId id : model.params().ids()) {
    const std::string& name = model.params().info(id).name;
    const StoredArray& weight = image.params.at(name).weight;
    for (const MegatronPart& part : megatron_parts(c, ranks, padded_vocab, name)) {
      place(weight, part);
      // A tied head is kept by the last pipeline-parallel rank once more.
      if (!c.tied_lm_head || pipeline == 1 || part.name != "embedding.word_embeddings.weight")
        continue;
      MegatronPart head = part;
      head.pipeline_rank = pipeline - 1;
      head.name = "output_layer.weight";
      place(weight, head);
    }
  }
  const std::string iteration = image.step > 0 ? fmt::format("iter_{:07}", image.step) : "release";
  const auto writer = std::make_shared<const RankFileWriter>(image, ranks, padded_vocab);
  std::vector<OutputFile> files;
  for (auto& [at, tensors] : all) {
    const std::string rank = pipeline == 1
                                 ? fmt::format("mp_rank_{:02}", at.first)
                                 : fmt::format("mp_rank_{:02}_{:03}", at.first, at.second);
    const auto held = std::make_shared<const RankTensors>(std::move(tensors));
    files.push_back(
        torch_output(fmt::format("{}/{}/model_optim_rng.pt", iteration, rank), 0,
                     [writer, held](TorchWriter& out) { return writer->fill(out, *held); }));
  }
  files.push_back(
      text_output(kMegatronLatest, image.step > 0 ? std::to_string(image.step) : "release"));
  return files;
}

}  // namespace thimble
