#include "core/ops/cpu/matmul.h"

#include <algorithm>

#include "core/base/numeric.h"
#include "core/base/threads.h"
#include "core/ops/cpu/blocked_matmul.h"
#include "core/ops/cpu/isa_kernels.h"
#include "core/ops/cpu/onednn_matmul.h"
#include "core/ops/matmul_path.h"

namespace thimble::cpu {
namespace {

// What fills the second-level cache with both operands' parts while either is used often enough to
// pay for its copy; smaller tiles are slower (measured: 128 x 128 by a tenth).
constexpr std::int64_t kTileRows = 256, kTileCols = 512, kLeastTileRows = 128, kLeastTileCols = 64;
// Enough that a thread which is late does not hold up the others for long.
constexpr std::int64_t kTilesWanted = 8;
constexpr std::int64_t kLeastTileWork = 32768;  // values: some 10 us

std::int64_t work_of(std::int64_t m, std::int64_t n, std::int64_t k) {
  return std::max(m * k + k * n + m * n, m * n * k / kOpsPerValue);
}

bool needs_conversion(const MatmulSpec& s) {
  return !has_native_bf16() && (s.a == DType::kBF16 || s.b == DType::kBF16);
}

// The matmul of one tile of `s`, of `rows` by `cols`.
MatmulSpec tile_spec(const MatmulSpec& s, std::int64_t rows, std::int64_t cols) {
  MatmulSpec tile = s;
  tile.m = rows;
  tile.n = cols;
  return tile;
}

// Calls f(tile spec) for every size of tile there is.
template <typename F>
void for_each_size(const MatmulSpec& s, const MatmulTiles& tiles, F&& f) {
  const std::int64_t last_rows = s.m - (tiles.down - 1) * tiles.rows;
  const std::int64_t last_cols = s.n - (tiles.across - 1) * tiles.cols;
  for (const std::int64_t rows : {tiles.rows, last_rows}) {
    for (const std::int64_t cols : {tiles.cols, last_cols}) f(tile_spec(s, rows, cols));
  }
}

// A tile's matmul in f32 from operands of which at least one is bf16: A [m, k] was converted whole
// before, B [k, cols] and C [rows, cols] are converted by the tile's thread.
struct Converted {
  MatmulSpec spec;
  std::int64_t b_elems = 0, c_elems = 0, bias_elems = 0;

  explicit Converted(const MatmulSpec& s) : spec(s) {
    spec.a = spec.b = DType::kF32;
    spec.ldb = s.trans_b ? s.k : s.n;
    if (s.c == DType::kBF16) {
      spec.c = DType::kF32;
      spec.ldc = s.n;
      spec.accumulate = false;
      c_elems = s.m * s.n;
    }
    b_elems = s.k * s.n;
    bias_elems = s.bias ? s.n : 0;
  }
  std::int64_t bytes() const { return 4 * (b_elems + c_elems + bias_elems); }
};

// The scratch memory of one thread.
std::int64_t scratch_bytes(const MatmulSpec& s, const MatmulTiles& tiles) {
  std::int64_t most = 0;
  for_each_size(s, tiles, [&](const MatmulSpec& tile) {
    if (!needs_conversion(s)) {
      most = std::max(most, onednn::workspace_bytes(tile));
      return;
    }
    MatmulSpec dense = tile;
    dense.lda = s.trans_a ? s.m : s.k;
    const Converted converted(dense);
    most = std::max(most,
                    round_up(converted.bytes(), kAlign) + onednn::workspace_bytes(converted.spec));
  });
  return round_up(most, kAlign);
}

std::int64_t converted_a_bytes(const MatmulSpec& s) {
  return needs_conversion(s) ? round_up(4 * s.m * s.k, kAlign) : 0;
}

// `rows` rows of `cols` elements, `stride` elements apart.
struct Rows {
  const void* from = nullptr;
  DType dtype = DType::kF32;
  std::int64_t rows = 0, cols = 0, stride = 0;
};

// Converts a matrix into dense f32.
void to_f32(float* dst, const Rows& m) {
  const auto* bytes = static_cast<const char*>(m.from);
  if (m.stride == m.cols) {
    isa_kernels().cast(dst, DType::kF32, bytes, m.dtype, m.rows * m.cols);
    return;
  }
  parallel_for_each(m.rows, m.cols, [&](std::int64_t r) {
    isa_kernels().cast(dst + r * m.cols, DType::kF32, bytes + r * m.stride * dtype_size(m.dtype),
                       m.dtype, m.cols);
  });
}

void run_converted(const MatmulSpec& s, const MatmulArgs& args) {
  const Converted converted(s);
  auto* b = static_cast<float*>(args.workspace);
  float* c = b + converted.b_elems;
  float* bias = c + converted.c_elems;
  char* inner = static_cast<char*>(args.workspace) + round_up(converted.bytes(), kAlign);
  to_f32(b, {args.b, s.b, s.trans_b ? s.n : s.k, s.trans_b ? s.k : s.n, s.ldb});
  if (s.bias) to_f32(bias, {args.bias, s.b, 1, s.n, s.n});
  const bool direct = converted.c_elems == 0;
  void* out = direct ? args.c : c;
  onednn::matmul(converted.spec, {.a = args.a, .b = b, .c = out, .bias = bias, .workspace = inner});
  if (direct) return;
  for (std::int64_t r = 0; r < s.m; ++r) {
    void* row = static_cast<char*>(args.c) + r * s.ldc * dtype_size(s.c);
    if (s.accumulate) {
      isa_kernels().accumulate(row, s.c, c + r * s.n, DType::kF32, s.n);
    } else {
      isa_kernels().cast(row, s.c, c + r * s.n, DType::kF32, s.n);
    }
  }
}

// With fewer rows, columns or k packing costs more than the matmul.
constexpr std::int64_t kLeastBlocked = 16;

// The kernel of our own that computes a matmul; null where the library does. Operands of f32 keep
// their precision whatever the path.
const MatmulKernel* blocked_kernel(const MatmulSpec& s) {
  for (const DType dtype : {s.a, s.b, s.c}) {
    TH_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, "{} in a matmul", dtype_name(dtype));
  }
  const MatmulPath path = s.path.value_or(matmul_path());
  if (path == MatmulPath::kLibrary || s.b_prepacked) return nullptr;
  if (std::min({s.m, s.n, s.k}) < kLeastBlocked) return nullptr;
  const bool pairs = s.a == DType::kBF16 && s.b == DType::kBF16;
  return matmul_kernel(pairs ? path : MatmulPath::kF32);
}

// A tile of the matmul with prepacked B.
MatmulSpec prepacked_tile(const MatmulSpec& spec) {
  MatmulSpec s = spec;
  s.b_prepacked = true;
  return tile_spec(s, MatmulTiles(s).rows, s.n);
}

}  // namespace

MatmulTiles::MatmulTiles(const MatmulSpec& s) : rows(s.m), cols(s.n) {
  // Measured where a model decodes: below this two threads gain nothing, and lose much as soon as
  // one of them has to wait for its core.
  constexpr std::int64_t kFewValues = 4;
  if (s.m == 0 || s.n == 0 || !is_team_work(work_of(s.m, s.n, s.k) / kFewValues)) return;
  // All tiles but the last have as many rows, as far as multiples of 16 go.
  const auto part = [&](std::int64_t most) {
    const std::int64_t parts = (s.m + most - 1) / most;
    return std::min(s.m, round_up((s.m + parts - 1) / parts, 16));
  };
  const auto count = [&] {
    down = (s.m + rows - 1) / rows;
    across = (s.n + cols - 1) / cols;
    return down * across;
  };
  if (s.b_prepacked) {
    // oneDNN packs for one number of rows, and for whole rows of C.
    rows = part(kLeastTileRows);
    if (s.m % rows != 0) rows = s.m;
    count();
    return;
  }
  // A converted tile has all rows, as its part of B is converted by each tile.
  const bool converted = needs_conversion(s);
  if (!converted) rows = part(kTileRows);
  cols = std::min(s.n, kTileCols);
  while (count() < kTilesWanted && work_of(rows, cols, s.k) / 2 >= kLeastTileWork) {
    if (rows > kLeastTileRows && !converted && part(kLeastTileRows) < rows) {
      rows = part(kLeastTileRows);
    } else if (cols > kLeastTileCols) {
      cols = round_up(cols / 2, kLeastTileCols);
    } else {
      break;
    }
  }
}

// Workspace of matmul() by team_threads() threads.
std::int64_t matmul_workspace_bytes(const MatmulSpec& s) {
  if (s.m == 0 || s.n == 0 || s.k == 0) return 0;
  TH_CHECK(!s.b_prepacked || !needs_conversion(s), "prepacked bf16 without native bf16");
  if (const MatmulKernel* kernel = blocked_kernel(s)) return blocked_workspace_bytes(*kernel, s);
  const MatmulTiles tiles(s);
  const std::int64_t threads = std::min<std::int64_t>(team_threads(), tiles.down * tiles.across);
  // Threads are numbered by the team, not by the tiles.
  return converted_a_bytes(s) + (threads == 1 ? 1 : team_threads()) * scratch_bytes(s, tiles);
}

void matmul(const MatmulSpec& s, const MatmulArgs& args) {
  TH_CHECK(s.k > 0, "matmul over an empty dimension");
  if (s.m == 0 || s.n == 0) return;
  if (const MatmulKernel* kernel = blocked_kernel(s)) return blocked_matmul(*kernel, s, args);
  const MatmulTiles tiles(s);
  const std::int64_t scratch = scratch_bytes(s, tiles);
  const bool converted = needs_conversion(s);
  MatmulSpec whole = s;
  MatmulArgs from = args;
  if (converted) {
    to_f32(static_cast<float*>(args.workspace),
           {args.a, s.a, s.trans_a ? s.k : s.m, s.trans_a ? s.m : s.k, s.lda});
    from.a = args.workspace;
    whole.a = DType::kF32;
    whole.lda = s.trans_a ? s.m : s.k;
    from.workspace = static_cast<char*>(args.workspace) + converted_a_bytes(s);
  }
  const std::int64_t a_step = (whole.trans_a ? 1 : whole.lda) * dtype_size(whole.a);
  const std::int64_t b_size = dtype_size(s.b), b_step = (s.trans_b ? s.ldb : 1) * b_size;
  const std::int64_t c_size = dtype_size(s.c);
  parallel_for_each(
      tiles.down * tiles.across, work_of(tiles.rows, tiles.cols, s.k), [&](std::int64_t i) {
        // Tiles of one part of B follow one another: it is still in the cache.
        const std::int64_t across = i / tiles.down, row = i % tiles.down * tiles.rows,
                           col = across * tiles.cols;
        const MatmulSpec tile =
            tile_spec(whole, std::min(tiles.rows, s.m - row), std::min(tiles.cols, s.n - col));
        const auto at = [](const void* base, std::int64_t bytes) {
          return static_cast<const char*>(base) + bytes;
        };
        const MatmulArgs part{
            .a = at(from.a, row * a_step),
            .b = at(from.b, col * b_step),
            .c = static_cast<char*>(from.c) + (row * s.ldc + col) * c_size,
            .bias = s.bias ? at(from.bias, col * b_size) : nullptr,
            .workspace = static_cast<char*>(from.workspace) + team_index() * scratch};
        if (converted) {
          run_converted(tile, part);
        } else {
          onednn::matmul(tile, part);
        }
      });
}

PrepackedLayout preferred_layout(const MatmulSpec& s) {
  return onednn::prepacked_layout(prepacked_tile(s));
}

// Only where a second copy of the weights pays. Measured: a third faster with AMX tiles; elsewhere
// within 5 %.
PrepackedLayout prepacked_layout(const MatmulSpec& s) {
  const bool pays = s.path.value_or(matmul_path()) == MatmulPath::kLibrary && has_amx_bf16();
  return pays && s.b == DType::kBF16 ? preferred_layout(s) : PrepackedLayout{};
}

void prepack(const MatmulSpec& s, const void* b, void* prepacked) {
  onednn::prepack(prepacked_tile(s), b, prepacked);
}

}  // namespace thimble::cpu
