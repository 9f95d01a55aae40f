#include "core/ops/cpu/blocked_matmul.h"

#include <algorithm>
#include <utility>

#include "core/base/numeric.h"
#include "core/base/threads.h"
#include "core/ops/cpu/isa_kernels.h"
#include "core/ops/cpu/matmul.h"

namespace thimble::cpu {
namespace {

// The size of a stripe of packed B, and of the sums that wait for the next stripe of k.
constexpr std::int64_t kStripeBytes = 8 * kMiB;
// Enough that a thread which is late does not hold up the others for long.
constexpr std::int64_t kPartsWanted = 16;
// Blocks of k in a stripe: a block of packed A stays in the second-level cache.
constexpr std::int64_t kStripeBlocks = 8;

// One operand: `count` rows of A or columns of B.
struct Side {
  std::int64_t panel = 0;  // of the micro-kernel
  void (*pack)(void*, const PackSource&) = nullptr;
  const char* from = nullptr;
  DType dtype = DType::kF32;
  std::int64_t stride_i = 0, stride_k = 0;

  // Elements from `first` on, `count` of them, over k from k0 on.
  PackSource part(std::int64_t first, std::int64_t count, std::int64_t k0, std::int64_t k) const {
    return {.from = from + (first * stride_i + k0 * stride_k) * dtype_size(dtype),
            .dtype = dtype,
            .stride_i = stride_i,
            .stride_k = stride_k,
            .count = count,
            .k = k};
  }
};

// How a matmul is cut. C is computed in stripes of columns, whose part of B is packed for all
// threads. A part of a stripe is some rows by some columns of it: its thread packs the rows of A
// for itself. Where k is long it is cut into stripes too, and the sums of a stripe of C wait in
// memory.
struct Blocking {
  const MatmulKernel& kernel;
  Side a, b;
  std::int64_t m, n, k, element;
  std::int64_t k_stripe, col_stripe, row_stripe;
  std::int64_t rows, cols;  // of a part; cols a multiple of the kernel's col_block

  Blocking(const MatmulKernel& with, const MatmulSpec& s)
      : kernel(with),
        a{.panel = with.rows, .pack = with.pack_rows, .dtype = s.a},
        b{.panel = with.cols, .pack = with.pack_cols, .dtype = s.b},
        m(s.m),
        n(s.n),
        k(s.k),
        element(dtype_size(with.packed)),
        k_stripe(std::min(s.k, kStripeBlocks * with.k_block)),
        rows(with.row_block) {
    a.stride_i = s.trans_a ? 1 : s.lda;
    a.stride_k = s.trans_a ? s.lda : 1;
    b.stride_i = s.trans_b ? s.ldb : 1;
    b.stride_k = s.trans_b ? 1 : s.ldb;
    const std::int64_t fitting = kStripeBytes / (padded_k(k_stripe) * element);
    col_stripe =
        std::min(round_up(n, kernel.col_block),
                 std::max(kernel.col_block, fitting / kernel.col_block * kernel.col_block));
    row_stripe = m;
    if (k_stripe < k) {
      row_stripe =
          std::min(m, std::max<std::int64_t>(1, kStripeBytes / (4 * col_stripe * rows)) * rows);
    }
    cols = col_stripe;
    const auto parts = [&] { return ceil_div(row_stripe, rows) * (col_stripe / cols); };
    while (parts() < kPartsWanted && cols > kernel.col_block)
      cols = round_up(cols / 2, kernel.col_block);
    while (parts() < kPartsWanted && rows > 2 * kernel.rows) rows = round_up(rows / 2, kernel.rows);
  }
  std::int64_t padded_k(std::int64_t of) const { return round_up(of, kernel.k_step); }
  std::int64_t packed_b_bytes() const {
    return round_up(col_stripe * padded_k(k_stripe) * element, kAlign);
  }
  std::int64_t packed_a_bytes() const {
    return round_up(round_up(rows, kernel.rows) * padded_k(k_stripe) * element, kAlign);
  }
  // Sums of a block of C, or of a stripe of it.
  std::int64_t sums_bytes() const { return 4 * rows * kernel.col_block; }
  std::int64_t waiting_bytes() const {
    return k_stripe < k ? 4 * round_up(row_stripe, rows) * col_stripe : 0;
  }
  std::int64_t thread_bytes() const { return packed_a_bytes() + round_up(sums_bytes(), kAlign); }
};

// A part of A or B: `count` from `first` on, over k from k0 to k1.
struct Part {
  std::int64_t first = 0, count = 0, k0 = 0, k1 = 0;
};

// Packs block after block of k, as multiply_block() reads them.
void pack_part(const Blocking& cut, const Side& side, const Part& part, char* packed) {
  for (std::int64_t k0 = part.k0; k0 < part.k1; k0 += cut.kernel.k_block) {
    const std::int64_t k = std::min(cut.kernel.k_block, part.k1 - k0);
    side.pack(packed, side.part(part.first, part.count, k0, k));
    packed += round_up(part.count, side.panel) * cut.padded_k(k) * cut.element;
  }
}

// Packs the columns of B, a block of them after the other.
void pack_columns(const Blocking& cut, const Part& part, char* packed) {
  const std::int64_t block = cut.kernel.col_block, k = part.k1 - part.k0;
  parallel_for_each(ceil_div(part.count, block), block * k, [&](std::int64_t i) {
    pack_part(cut, cut.b,
              {.first = part.first + i * block,
               .count = std::min(block, part.count - i * block),
               .k0 = part.k0,
               .k1 = part.k1},
              packed + i * block * cut.padded_k(k) * cut.element);
  });
}

// A block of C, as computed and as it is stored.
struct Target {
  float* sums = nullptr;  // [rows, stride]
  std::int64_t stride = 0;
  std::int64_t row = 0, col = 0, rows = 0, cols = 0;
};

void store_block(const MatmulSpec& s, const MatmulArgs& args, const Target& t) {
  const IsaKernels& isa = isa_kernels();
  const std::int64_t size = dtype_size(s.c);
  for (std::int64_t r = 0; r < t.rows; ++r) {
    float* sums = t.sums + r * t.stride;
    if (s.bias) {
      isa.accumulate(sums, DType::kF32,
                     static_cast<const char*>(args.bias) + t.col * dtype_size(s.b), s.b, t.cols);
    }
    void* row = static_cast<char*>(args.c) + ((t.row + r) * s.ldc + t.col) * size;
    if (s.accumulate) {
      isa.accumulate(row, s.c, sums, DType::kF32, t.cols);
    } else {
      isa.cast(row, s.c, sums, DType::kF32, t.cols);
    }
  }
}

// The stripe of C of `rows` from row on and `cols` from col on, over a stripe of k.
struct Stripe {
  std::int64_t row = 0, rows = 0, col = 0, cols = 0, k0 = 0, k1 = 0;
};

// Packed rows of A and columns of B.
struct PackedPair {
  const char* a = nullptr;
  const char* b = nullptr;
};

// The sums of a block of C over a stripe of k.
void multiply_block(const Blocking& cut, PackedPair packed, const Target& t, const Stripe& stripe) {
  const auto [k0, k1] = std::pair(stripe.k0, stripe.k1);
  const std::int64_t rows = round_up(t.rows, cut.a.panel), cols = round_up(t.cols, cut.b.panel);
  for (std::int64_t at = k0; at < k1; at += cut.kernel.k_block) {
    const std::int64_t k = cut.padded_k(std::min(cut.kernel.k_block, k1 - at));
    cut.kernel.multiply({.a = packed.a,
                         .b = packed.b,
                         .c = t.sums,
                         .ldc = t.stride,
                         .rows = rows,
                         .cols = cols,
                         .k = k,
                         .accumulate = at > 0});
    packed.a += rows * k * cut.element;
    packed.b += cols * k * cut.element;
  }
}

// Where a matmul works.
struct Work {
  char *b, *threads;
  float* waiting;

  Work(const Blocking& cut, void* workspace)
      : b(static_cast<char*>(workspace)),
        threads(b + cut.packed_b_bytes() + cut.waiting_bytes()),
        waiting(reinterpret_cast<float*>(b + cut.packed_b_bytes())) {}
};

// A matmul under way.
struct Task {
  const Blocking& cut;
  const MatmulSpec& spec;
  const MatmulArgs& args;
  const Work& work;
};

// The part of a stripe whose rows begin at `row` of it and whose columns at `col`.
void compute_part(const Task& task, const Stripe& stripe, std::int64_t row, std::int64_t col) {
  const auto& [cut, spec, args, work] = task;
  char* const a = work.threads + team_index() * cut.thread_bytes();
  auto* const sums = reinterpret_cast<float*>(a + cut.packed_a_bytes());
  const std::int64_t block = cut.kernel.col_block, rows = std::min(cut.rows, stripe.rows - row);
  pack_part(cut, cut.a,
            {.first = stripe.row + row, .count = rows, .k0 = stripe.k0, .k1 = stripe.k1}, a);
  for (std::int64_t c = col; c < std::min(col + cut.cols, stripe.cols); c += block) {
    Target target{.sums = sums,
                  .stride = block,
                  .row = stripe.row + row,
                  .col = stripe.col + c,
                  .rows = rows,
                  .cols = std::min(block, stripe.cols - c)};
    if (cut.k_stripe < cut.k) {
      target.stride = cut.col_stripe;
      target.sums = work.waiting + row * target.stride + c;
    }
    const std::int64_t k = cut.padded_k(stripe.k1 - stripe.k0);
    multiply_block(cut, {a, work.b + c * k * cut.element}, target, stripe);
    if (stripe.k1 == cut.k) store_block(spec, args, target);
  }
}

}  // namespace

std::int64_t blocked_workspace_bytes(const MatmulKernel& kernel, const MatmulSpec& spec) {
  const Blocking cut(kernel, spec);
  return cut.packed_b_bytes() + cut.waiting_bytes() + team_threads() * cut.thread_bytes();
}

void blocked_matmul(const MatmulKernel& kernel, const MatmulSpec& s, const MatmulArgs& args) {
  Blocking cut(kernel, s);
  cut.a.from = static_cast<const char*>(args.a);
  cut.b.from = static_cast<const char*>(args.b);
  const Work work(cut, args.workspace);
  for (Stripe stripe; stripe.col < s.n; stripe.col += cut.col_stripe) {
    stripe.cols = std::min(cut.col_stripe, s.n - stripe.col);
    for (stripe.row = 0; stripe.row < s.m; stripe.row += cut.row_stripe) {
      stripe.rows = std::min(cut.row_stripe, s.m - stripe.row);
      for (stripe.k0 = 0; stripe.k0 < s.k; stripe.k0 = stripe.k1) {
        stripe.k1 = std::min(stripe.k0 + cut.k_stripe, s.k);
        pack_columns(cut,
                     {.first = stripe.col, .count = stripe.cols, .k0 = stripe.k0, .k1 = stripe.k1},
                     work.b);
        const std::int64_t down = ceil_div(stripe.rows, cut.rows),
                           across = ceil_div(stripe.cols, cut.cols);
        parallel_for_each(
            down * across, cut.rows * cut.cols * (stripe.k1 - stripe.k0) / kOpsPerValue,
            [&](std::int64_t i) {
              compute_part({cut, s, args, work}, stripe, i % down * cut.rows, i / down * cut.cols);
            });
      }
    }
  }
}

}  // namespace thimble::cpu
