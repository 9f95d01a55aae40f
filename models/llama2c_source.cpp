// Checkpoints of llama2.c: a header of seven sizes, then the weights in one fixed order.
#include <array>
#include <cstring>
#include <span>

#include "core/io/file.h"
#include "models/weight_sources.h"

namespace thimble {
namespace {

constexpr std::int64_t kHeaderBytes = 28;
constexpr std::int32_t kSizeLimit = 1 << 20;

}  // namespace

struct Llama2cSource::Impl {
  MappedFile file;
  std::unordered_map<std::string, std::int64_t> offsets;  // in floats from the end of the header
};

Llama2cSource::~Llama2cSource() = default;

namespace {

struct Header {
  std::int64_t dim, hidden_dim, layers, heads, kv_heads, vocab_size, seq_len;
  bool own_lm_head;  // a negative vocab_size says so
};

Header read_header(std::span<const std::byte> bytes, const std::filesystem::path& file) {
  std::array<std::int32_t, 7> h{};
  if (static_cast<std::int64_t>(bytes.size()) < kHeaderBytes) {
    throw_user("{}: {} bytes, too short for a llama2.c header of {}", file.string(), bytes.size(),
               kHeaderBytes);
  }
  std::memcpy(h.data(), bytes.data(), kHeaderBytes);
  const bool own_lm_head = h[5] < 0;
  if (h[5] < 0 && h[5] > -kSizeLimit) h[5] = -h[5];
  static constexpr std::array<const char*, 7> kNames{
      "dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len"};
  for (std::size_t i = 0; i < h.size(); ++i) {
    if (h[i] < 1 || h[i] > kSizeLimit) {
      throw_user("{}: not a llama2.c checkpoint: {} = {}, allowed 1 to {}", file.string(),
                 kNames[i], h[i], kSizeLimit);
    }
  }
  if (h[0] % h[3] != 0 || h[3] % h[4] != 0 || (h[0] / h[3]) % 2 != 0 || h[2] > 4096) {
    throw_user("{}: not a llama2.c checkpoint: dim {}, n_heads {}, n_kv_heads {}, n_layers {}",
               file.string(), h[0], h[3], h[4], h[2]);
  }
  return {h[0], h[1], h[2], h[3], h[4], h[5], h[6], own_lm_head};
}

ModelConfig config_of(const Header& h) {
  return {.model_type = "llama",
          .hidden_size = h.dim,
          .intermediate_size = h.hidden_dim,
          .num_layers = h.layers,
          .num_heads = h.heads,
          .num_kv_heads = h.kv_heads,
          .head_dim = h.dim / h.heads,
          .vocab_size = h.vocab_size,
          .max_positions = h.seq_len,
          .rms_eps = 1e-5,
          .rope_theta = 10000,
          .rope_scaling = {},
          .tied_lm_head = !h.own_lm_head,
          .windows = std::vector<std::int64_t>(static_cast<std::size_t>(h.layers), 0),
          .bos_id = 1,
          .eos_ids = {2}};
}

}  // namespace

Llama2cSource::Llama2cSource(const std::filesystem::path& file)
    : impl_(new Impl{.file = MappedFile(file), .offsets = {}}) {
  const auto bytes = impl_->file.bytes();
  config_ = config_of(read_header(bytes, file));
  const std::int64_t dim = config_.hidden_size, ffn = config_.intermediate_size,
                     kv = config_.num_kv_heads * config_.head_dim;
  std::int64_t next = 0;
  const auto one = [&](const std::string& name, std::int64_t n) {
    impl_->offsets[name] = next;
    next += n;
  };
  const auto per_layer = [&](const char* name, std::int64_t n) {
    for (std::int64_t l = 0; l < config_.num_layers; ++l)
      one(fmt::format("model.layers.{}.{}.weight", l, name), n);
  };
  one("model.embed_tokens.weight", config_.vocab_size * dim);
  per_layer("input_layernorm", dim);
  per_layer("self_attn.q_proj", dim * dim);
  per_layer("self_attn.k_proj", kv * dim);
  per_layer("self_attn.v_proj", kv * dim);
  per_layer("self_attn.o_proj", dim * dim);
  per_layer("post_attention_layernorm", dim);
  per_layer("mlp.gate_proj", ffn * dim);
  per_layer("mlp.down_proj", dim * ffn);
  per_layer("mlp.up_proj", ffn * dim);
  one("model.norm.weight", dim);
  next += config_.max_positions * config_.head_dim;  // the RoPE tables, recomputed here
  if (!config_.tied_lm_head) one("lm_head.weight", config_.vocab_size * dim);
  const std::int64_t wanted = kHeaderBytes + 4 * next;
  if (static_cast<std::int64_t>(bytes.size()) != wanted) {
    throw_user("{}: {} bytes, but its header describes {}", file.string(), bytes.size(), wanted);
  }
}

void Llama2cSource::read(const ParamInfo& info, Slice slice, const Tensor& dst) {
  if (dst.device().planning) return;
  const auto found = impl_->offsets.find(info.name);
  if (found == impl_->offsets.end())
    throw_user("a llama2.c checkpoint has no tensor {}", info.name);
  const std::byte* base = impl_->file.bytes().data() + kHeaderBytes + 4 * found->second;
  const std::int64_t cols = info.is_matrix() ? info.shape[1] : 1;
  const bool has_rope =
      info.name.ends_with("q_proj.weight") || info.name.ends_with("k_proj.weight");
  const std::int64_t d = config_.head_dim;
  // Half-split row i of a head is row 2i of the interleaved order, row D/2 + i is row 2i + 1.
  const auto file_row = [&](std::int64_t row) {
    if (!has_rope) return row;
    const std::int64_t in_head = row % d;
    return row - in_head + (in_head < d / 2 ? 2 * in_head : 2 * (in_head - d / 2) + 1);
  };
  const auto element = [&](std::int64_t row, std::int64_t col) {
    float value = 0;
    std::memcpy(&value, base + 4 * (file_row(row) * cols + col), 4);
    return value;
  };
  float* out = dst.data<float>();
  const std::int64_t width = info.is_matrix() ? info.storage_shape()[1] : 1;
  for (std::int64_t r = slice.begin; r < slice.end; ++r) {
    for (std::int64_t c = 0; c < width; ++c) {
      *out++ = info.transposed() ? element(c, r) : element(r, c);
    }
  }
}

}  // namespace thimble
