#include "compress/retention_labels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/base/threads.h"
#include "core/ops/ops.h"

namespace thimble {
namespace {

constexpr std::int64_t kTileRows = 64;  // of products that exist at once

// The answers of one document, whose positions are [begin, end) of the batch. Where the data trains
// on nothing, as on padding, there are none.
void mark_document(Batch& batch, std::size_t begin, std::size_t end, std::int64_t answer_tokens) {
  std::vector<bool> answers(end - begin);
  const bool trains = std::any_of(batch.weights.data() + begin, batch.weights.data() + end,
                                  [](float weight) { return weight > 0; });
  for (std::size_t i = 1; i < answers.size() && trains; ++i) {
    answers[i] = answer_tokens > 0 ? static_cast<std::int64_t>(answers.size() - i) <= answer_tokens
                                   : batch.weights[begin + i - 1] > 0;
  }
  bool answered = false;
  for (std::size_t i = answers.size(); i-- > 0;) {
    batch.targets[begin + i] = answers[i] ? 1 : 0;
    batch.weights[begin + i] = answered && !answers[i] ? 1.0f : 0.0f;
    answered = answered || answers[i];
  }
}

// The queries of the answers of one sequence, of one key-value head: a tile at a time.
class AnswerQueries {
 public:
  AnswerQueries(const LabelInputs& in, std::int64_t sequence)
      : in_(in),
        length_(in.q.dim(0) / in.sequences),
        first_(sequence * length_),
        group_(in.q.dim(1) / (in.kv_heads * in.head_dim)) {
    const std::int32_t* marks = in.is_answer.data<std::int32_t>() + first_;
    for (std::int64_t t = 0; t < length_; ++t) {
      if (marks[t] != 0) answers_.push_back(t);
    }
  }

  std::int64_t count() const { return static_cast<std::int64_t>(answers_.size()) * group_; }
  std::int64_t position(std::int64_t row) const {
    return answers_[static_cast<std::size_t>(row / group_)];
  }
  /// Rows [begin, end) into tile [end - begin, D].
  void gather(const Tensor& tile, std::int64_t head, std::int64_t begin, std::int64_t end) const {
    const std::int64_t size = dtype_size(in_.q.dtype()), bytes = in_.head_dim * size;
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t column = (head * group_ + r % group_) * in_.head_dim;
      const auto* from = static_cast<const char*>(in_.q.raw()) +
                         ((first_ + position(r)) * in_.q.row_stride() + column) * size;
      std::memcpy(static_cast<char*>(tile.raw()) + (r - begin) * bytes, from,
                  static_cast<std::size_t>(bytes));
    }
  }

 private:
  const LabelInputs& in_;
  std::int64_t length_, first_, group_;
  std::vector<std::int64_t> answers_;
};

// A key's label grows to the largest of its products with the rows of a tile.
struct TileOfProducts {
  const Tensor& products;                  // [rows, T]
  std::vector<std::int64_t> begins, ends;  // per row: keys that it sees
};

void raise_labels(const TileOfProducts& tile, float scale, float* labels, std::int64_t stride) {
  const std::int64_t keys = tile.products.dim(1);
  parallel_for(keys, tile.products.dim(0), [&](std::int64_t from, std::int64_t to) {
    for (std::size_t r = 0; r < tile.ends.size(); ++r) {
      const float* row = tile.products.data<float>() + static_cast<std::int64_t>(r) * keys;
      const std::int64_t end = std::min(to, tile.ends[r]);
      for (std::int64_t t = std::max(from, tile.begins[r]); t < end; ++t)
        labels[t * stride] = std::max(labels[t * stride], scale * row[t]);
    }
  });
}

}  // namespace

void mark_answers(Batch& batch, std::int64_t answer_tokens) {
  const auto length = static_cast<std::size_t>(batch.seq_len);
  for (std::size_t s = 0; s < static_cast<std::size_t>(batch.sequences); ++s) {
    for (std::size_t begin = s * length, end = begin; begin < (s + 1) * length; begin = end) {
      while (end < (s + 1) * length && batch.segment_start[end] == batch.segment_start[begin])
        ++end;
      mark_document(batch, begin, end, answer_tokens);
    }
  }
}

Tensor retention_labels(Arena& arena, const LabelInputs& in) {
  const std::int64_t n = in.q.dim(0), length = n / in.sequences;
  const Tensor labels = Tensor::empty(arena, MemoryTag::kActivations, DType::kF32,
                                      Shape{n, in.kv_heads}, "labels of positions");
  const Tensor tile = Tensor::empty(arena, MemoryTag::kWorkspace, in.q.dtype(),
                                    Shape{kTileRows, in.head_dim}, "queries of answers");
  const Tensor products = Tensor::empty(arena, MemoryTag::kWorkspace, DType::kF32,
                                        Shape{kTileRows, length}, "products of answers");
  const auto multiply_tile = [&](std::int64_t rows, std::int64_t sequence, std::int64_t head) {
    const Tensor keys = in.k.rows(sequence * length, (sequence + 1) * length)
                            .columns(head * in.head_dim, (head + 1) * in.head_dim);
    ops::matmul(arena, {tile.rows(0, rows)}, {keys, true}, products.rows(0, rows));
  };
  if (arena.device().planning) {
    multiply_tile(kTileRows, 0, 0);
    return labels;
  }
  std::fill_n(labels.data<float>(), labels.numel(), -HUGE_VALF);
  for (std::int64_t s = 0; s < in.sequences; ++s) {
    const AnswerQueries queries(in, s);
    for (std::int64_t h = 0; h < in.kv_heads; ++h) {
      for (std::int64_t begin = 0; begin < queries.count(); begin += kTileRows) {
        const std::int64_t end = std::min(queries.count(), begin + kTileRows);
        queries.gather(tile, h, begin, end);
        multiply_tile(end - begin, s, h);
        TileOfProducts some{products, {}, {}};
        for (std::int64_t r = begin; r < end; ++r) {
          const std::int64_t p = queries.position(r);
          some.begins.push_back(in.segment_start.data<std::int32_t>()[s * length + p]);
          some.ends.push_back(p);
        }
        raise_labels(some, in.scale, labels.data<float>() + s * length * in.kv_heads + h,
                     in.kv_heads);
      }
    }
  }
  return labels;
}

}  // namespace thimble
