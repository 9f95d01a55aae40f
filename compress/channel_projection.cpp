#include "compress/channel_projection.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "compress/moments.h"
#include "core/base/threads.h"
#include "core/nn/op_node.h"

namespace thimble {
namespace {

// Square matrices of one size, row-major.
class Square {
 public:
  explicit Square(std::int64_t n) : n_(n), values_(static_cast<std::size_t>(n * n)) {}
  std::int64_t size() const { return n_; }
  double& at(std::int64_t i, std::int64_t j) {
    return values_[static_cast<std::size_t>(i * n_ + j)];
  }
  double at(std::int64_t i, std::int64_t j) const {
    return values_[static_cast<std::size_t>(i * n_ + j)];
  }
  Square transposed() const {
    Square out(n_);
    for (std::int64_t i = 0; i < n_; ++i) {
      for (std::int64_t j = 0; j < n_; ++j) out.at(j, i) = at(i, j);
    }
    return out;
  }
  Square operator*(const Square& other) const {
    Square out(n_);
    for (std::int64_t i = 0; i < n_; ++i) {
      for (std::int64_t k = 0; k < n_; ++k) {
        const double factor = at(i, k);
        for (std::int64_t j = 0; j < n_; ++j) out.at(i, j) += factor * other.at(k, j);
      }
    }
    return out;
  }
  // this + factor * other
  Square plus(const Square& other, double factor) const {
    Square out = *this;
    for (std::size_t i = 0; i < values_.size(); ++i) out.values_[i] += factor * other.values_[i];
    return out;
  }
  static Square identity(std::int64_t n) {
    Square out(n);
    for (std::int64_t i = 0; i < n; ++i) out.at(i, i) = 1;
    return out;
  }

 private:
  std::int64_t n_;
  std::vector<double> values_;
};

// By Gauss and Jordan with row pivots. I - A/2 of a skew A is never singular.
Square inverse(Square a) {
  const std::int64_t n = a.size();
  Square out = Square::identity(n);
  for (std::int64_t c = 0; c < n; ++c) {
    std::int64_t pivot = c;
    for (std::int64_t r = c; r < n; ++r) {
      if (std::abs(a.at(r, c)) > std::abs(a.at(pivot, c))) pivot = r;
    }
    for (std::int64_t j = 0; j < n && pivot != c; ++j) {
      std::swap(a.at(pivot, j), a.at(c, j));
      std::swap(out.at(pivot, j), out.at(c, j));
    }
    const double scale = 1 / a.at(c, c);
    for (std::int64_t j = 0; j < n; ++j) {
      a.at(c, j) *= scale;
      out.at(c, j) *= scale;
    }
    for (std::int64_t r = 0; r < n; ++r) {
      const double factor = a.at(r, c);
      if (r == c || factor == 0) continue;
      for (std::int64_t j = 0; j < n; ++j) {
        a.at(r, j) -= factor * a.at(c, j);
        out.at(r, j) -= factor * out.at(c, j);
      }
    }
  }
  return out;
}

Square head_square(const Tensor& stored, std::int64_t head, std::int64_t d) {
  Square out(d);
  for (std::int64_t i = 0; i < d; ++i) {
    for (std::int64_t j = 0; j < d; ++j) out.at(i, j) = matrix_element(stored, head * d + i, j);
  }
  return out;
}

// One head's basis and what its gradient needs.
struct HeadBasis {
  Square basis, solved, turn, axes;  // B, S = (I - A/2)^-1, C = Cayley(A), R = B C

  HeadBasis(const Tensor& basis_rows, const Tensor& skew_rows, std::int64_t head, std::int64_t d)
      : basis(head_square(basis_rows, head, d)), solved(d), turn(d), axes(d) {
    const Square x = head_square(skew_rows, head, d);
    const Square a = x.plus(x.transposed(), -1), one = Square::identity(d);
    solved = inverse(one.plus(a, -0.5));
    turn = solved * one.plus(a, 0.5);
    axes = basis * turn;
  }
  // R_r R_r'.
  Square projector(std::int64_t rank) const {
    Square some = axes;
    for (std::int64_t i = 0; i < some.size(); ++i) {
      for (std::int64_t j = rank; j < some.size(); ++j) some.at(i, j) = 0;
    }
    return some * some.transposed();
  }
  // The gradient of X, of that of the projector. dC = S (dA / 2) (C + I).
  Square skew_gradient(const Square& of_projector, std::int64_t rank) const {
    Square of_axes = of_projector.plus(of_projector.transposed(), 1) * axes;
    for (std::int64_t i = 0; i < of_axes.size(); ++i) {
      for (std::int64_t j = rank; j < of_axes.size(); ++j) of_axes.at(i, j) = 0;
    }
    const Square of_turn = basis.transposed() * of_axes;
    const Square shifted = turn.plus(Square::identity(turn.size()), 1);
    const Square half = solved.transposed() * of_turn * shifted.transposed();
    Square out(turn.size());
    return out.plus(half, 0.5).plus(half.transposed(), -0.5);
  }
};

// What a pass multiplies by: of every head the projector, and the mean less its projection.
struct Projectors {
  Tensor matrices;  // [Hkv * D, D]
  Tensor shifts;    // [Hkv, D]
};
Projectors make_projectors(Arena& arena, ParamStore& store, const BasisWeights& w,
                           std::int64_t rank, DType dtype) {
  const ParamInfo& info = store.params().info(w.basis.id);
  const std::int64_t d = info.shape[1], heads = info.shape[0] / d;
  const Pin pin(store, w.basis.block);
  const Tensor basis = pin.view(w.basis.id), skew = pin.view(w.skew.id),
               mean = pin.view(w.mean.id).view(Shape{heads, d});
  const auto reserve = [&](DType type, std::int64_t rows, std::string_view label) {
    return Tensor::empty(arena, MemoryTag::kWorkspace, type, Shape{rows, d}, label);
  };
  const Projectors out{reserve(dtype, heads * d, "projectors"), reserve(dtype, heads, "shifts")};
  const Tensor matrices = reserve(DType::kF32, heads * d, "projectors in f32"),
               shifts = reserve(DType::kF32, heads, "shifts in f32");
  if (!arena.device().planning) {
    parallel_for_each(heads, 8 * d * d * d, [&](std::int64_t h) {
      const Square p = HeadBasis(basis, skew, h, d).projector(rank);
      for (std::int64_t j = 0; j < d; ++j) {
        double shift = matrix_element(mean, h, j);
        for (std::int64_t i = 0; i < d; ++i) {
          matrices.data<float>()[(h * d + i) * d + j] = static_cast<float>(p.at(i, j));
          shift -= matrix_element(mean, h, i) * p.at(i, j);
        }
        shifts.data<float>()[h * d + j] = static_cast<float>(shift);
      }
    });
  }
  ops::cast(out.matrices, matrices);
  ops::cast(out.shifts, shifts);
  return out;
}

// The gradient of X of every head, of those of the projectors.
void add_skew_gradient(Tape& tape, NodeContext node, const BasisWeights& w, std::int64_t rank,
                       const Tensor& of_projectors) {
  const std::int64_t d = of_projectors.dim(1), heads = of_projectors.dim(0) / d;
  const Pin pin(node.store, w.basis.block);
  const Tensor basis = pin.view(w.basis.id), skew = pin.view(w.skew.id);
  const Tensor own = Tensor::empty(node.arena, MemoryTag::kWorkspace, DType::kF32,
                                   of_projectors.shape(), "gradient of a basis");
  if (!node.arena.device().planning) {
    parallel_for_each(heads, 16 * d * d * d, [&](std::int64_t h) {
      const HeadBasis of(basis, skew, h, d);
      const Square g = of.skew_gradient(head_square(of_projectors, h, d), rank);
      for (std::int64_t i = 0; i < d; ++i) {
        for (std::int64_t j = 0; j < d; ++j)
          own.data<float>()[(h * d + i) * d + j] = static_cast<float>(g.at(i, j));
      }
    });
  }
  const GradTarget target = tape.sink().accumulate_into(w.skew.id);
  target.accumulate ? ops::accumulate(target.tensor, own) : ops::cast(target.tensor, own);
}

// (x - mean)' dy of every head, f32 [Hkv * D, D].
Tensor projector_gradients(NodeContext node, const BasisWeights& w, const Tensor& x,
                           const Tensor& dy, std::int64_t d) {
  const std::int64_t heads = x.dim(1) / d;
  Tensor out = Tensor::empty(node.arena, MemoryTag::kWorkspace, DType::kF32, Shape{heads * d, d},
                             "gradient of projectors");
  const Tensor sums = Tensor::empty(node.arena, MemoryTag::kWorkspace, DType::kF32,
                                    Shape{heads * d}, "sums of gradients");
  ops::column_sums(node.arena, sums, dy, false);
  for (std::int64_t h = 0; h < heads; ++h) {
    ops::matmul(node.arena, {x.columns(h * d, (h + 1) * d), true}, {dy.columns(h * d, (h + 1) * d)},
                out.rows(h * d, (h + 1) * d));
  }
  const Pin pin(node.store, w.basis.block);
  const Tensor mean = pin.view(w.mean.id).view(Shape{heads * d, 1});
  for (std::int64_t i = 0; i < heads * d && !node.arena.device().planning; ++i) {
    const float m = matrix_element(mean, i, 0);
    for (std::int64_t j = 0; j < d; ++j)
      out.data<float>()[i * d + j] -= m * sums.data<float>()[i / d * d + j];
  }
  return out;
}

}  // namespace

Var project_channels(Context& ctx, const Var& x, const BasisWeights& w, std::int64_t rank) {
  const NodeContext node{ctx.store, ctx.arena};
  const std::int64_t d = ctx.store.params().info(w.basis.id).shape[1], heads = x.value.dim(1) / d;
  Tensor out = thimble::activation(ctx, x.value.shape(), "projected channels");
  const Projectors projectors = make_projectors(ctx.arena, ctx.store, w, rank, x.value.dtype());
  for (std::int64_t h = 0; h < heads; ++h) {
    const Tensor shift = projectors.shifts.rows(h, h + 1).view(Shape{d});
    ops::matmul(ctx.arena, {x.value.columns(h * d, (h + 1) * d)},
                {projectors.matrices.rows(h * d, (h + 1) * d)}, out.columns(h * d, (h + 1) * d),
                {.bias = &shift});
  }
  const bool trains = use(ctx, w.skew);
  Var y = make_var(ctx, std::move(out), trains || x.needs_grad());
  if (!ctx.recording() || !y.needs_grad()) return y;
  const auto saved = trains ? ctx.tape->save(x) : nullptr;
  ctx.tape->record([=, x_id = x.id, y_id = y.id, x_shape = x.value.shape()](Tape& tape) {
    const Tensor dy = tape.take_grad(y_id);
    if (trains) {
      add_skew_gradient(tape, node, w, rank, projector_gradients(node, w, saved->get(), dy, d));
      tape.finish_use(w.skew.id);
    }
    if (x_id < 0) return;
    const Projectors again = make_projectors(node.arena, node.store, w, rank, dy.dtype());
    const GradTarget dx = tape.grad_slot(x_id, dy.dtype(), x_shape);
    for (std::int64_t h = 0; h < heads; ++h) {
      ops::matmul(node.arena, {dy.columns(h * d, (h + 1) * d)},
                  {again.matrices.rows(h * d, (h + 1) * d)}, dx.tensor.columns(h * d, (h + 1) * d),
                  {.accumulate = dx.accumulate});
    }
  });
  return y;
}

Tensor trained_basis(Arena& arena, ParamStore& store, const BasisWeights& w) {
  const ParamInfo& info = store.params().info(w.basis.id);
  const std::int64_t d = info.shape[1], heads = info.shape[0] / d;
  Tensor out = Tensor::empty(arena, MemoryTag::kIo, DType::kF32, info.shape, "trained bases");
  const Pin pin(store, w.basis.block);
  const Tensor basis = pin.view(w.basis.id), skew = pin.view(w.skew.id);
  if (arena.device().planning) return out;
  parallel_for_each(heads, 8 * d * d * d, [&](std::int64_t h) {
    const HeadBasis of(basis, skew, h, d);
    for (std::int64_t i = 0; i < d; ++i) {
      for (std::int64_t j = 0; j < d; ++j)
        out.data<float>()[(h * d + i) * d + j] = static_cast<float>(of.axes.at(i, j));
    }
  });
  return out;
}

}  // namespace thimble
