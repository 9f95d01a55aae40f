#include "checkpoint/erasure_code.h"

#include <isa-l/erasure_code.h>

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/base/numeric.h"

namespace thimble {
namespace {

using Matrix = std::vector<unsigned char>;

constexpr std::size_t kTableBytes = 32;
// Sources and rows of one call together stay in a core's L2 cache.
constexpr std::size_t kChunkBytes = std::size_t{32} << 10;

// ISA-L takes what it only reads as mutable.
unsigned char* bytes_of(std::span<const std::byte> block) {
  return const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(block.data()));
}

Matrix code_matrix(CodeShape shape) {
  TH_CHECK(shape.data >= 1 && shape.parity >= 1 && shape.num_nodes() <= kMaxCodeNodes);
  const auto k = static_cast<std::size_t>(shape.data);
  Matrix matrix(static_cast<std::size_t>(shape.num_nodes()) * k);
  gf_gen_cauchy1_matrix(matrix.data(), shape.num_nodes(), shape.data);
  const auto scale = [&](std::size_t first, std::size_t count, std::size_t stride) {
    const unsigned char factor = gf_inv(matrix[first]);
    for (std::size_t i = 0; i < count; ++i) {
      unsigned char& element = matrix[first + i * stride];
      element = gf_mul(element, factor);
    }
  };
  const auto m = static_cast<std::size_t>(shape.parity);
  for (std::size_t column = 0; column < k; ++column) scale(k * k + column, m, k);
  for (std::size_t row = k; row < k + m; ++row) scale(row * k, k, 1);
  return matrix;
}

/// [rows.size(), k]: the rows of `matrix` that are named.
Matrix take_rows(const Matrix& matrix, const std::vector<int>& rows, int k) {
  Matrix taken;
  taken.reserve(rows.size() * static_cast<std::size_t>(k));
  for (const int row : rows) {
    const auto begin = matrix.begin() + static_cast<std::ptrdiff_t>(row) * k;
    taken.insert(taken.end(), begin, begin + k);
  }
  return taken;
}

/// a [rows, k] times b [k, k].
Matrix multiply(const Matrix& a, const Matrix& b, std::size_t k) {
  Matrix product(a.size(), 0);
  for (std::size_t row = 0; row < a.size() / k; ++row) {
    for (std::size_t column = 0; column < k; ++column) {
      for (std::size_t i = 0; i < k; ++i) {
        product[row * k + column] ^= gf_mul(a[row * k + i], b[i * k + column]);
      }
    }
  }
  return product;
}

}  // namespace

BlockTransform::BlockTransform(std::span<const unsigned char> matrix, int num_sources)
    : num_rows_(narrow<int>(matrix.size()) / num_sources),
      num_sources_(num_sources),
      tables_(matrix.size() * kTableBytes) {
  TH_CHECK_EQ(static_cast<std::size_t>(num_rows_) * static_cast<std::size_t>(num_sources),
              matrix.size());
  if (num_rows_ > 0) {
    Matrix copy(matrix.begin(), matrix.end());
    ec_init_tables(num_sources_, num_rows_, copy.data(), tables_.data());
  }
}

const unsigned char* BlockTransform::tables_of(int row) const {
  return tables_.data() + static_cast<std::size_t>(row * num_sources_) * kTableBytes;
}

void BlockTransform::add(int source, std::span<const std::byte> block, int row,
                         std::span<std::byte> into) const {
  TH_CHECK(source >= 0 && source < num_sources_, "source {} of {}", source, num_sources_);
  TH_CHECK(row >= 0 && row < num_rows_, "row {} of {}", row, num_rows_);
  auto* tables = const_cast<unsigned char*>(tables_of(row));
  const std::size_t size = std::min(block.size(), into.size());
  for (std::size_t begin = 0; begin < size; begin += kChunkBytes) {
    unsigned char* row_bytes = bytes_of(into.subspan(begin));
    ec_encode_data_update(narrow<int>(std::min(kChunkBytes, size - begin)), num_sources_, 1, source,
                          tables, bytes_of(block.subspan(begin)), &row_bytes);
  }
}

void BlockTransform::apply(std::span<const std::span<const std::byte>> sources,
                           std::span<const std::span<std::byte>> rows) const {
  TH_CHECK_EQ(narrow<int>(sources.size()), num_sources_);
  TH_CHECK_EQ(narrow<int>(rows.size()), num_rows_);
  if (rows.empty()) return;
  // What all blocks have goes through in one call a chunk, the rest is added.
  std::size_t common = rows.front().size();
  for (const auto& row : rows) common = std::min(common, row.size());
  for (const auto& source : sources) common = std::min(common, source.size());
  std::vector<unsigned char*> from(sources.size()), into(rows.size());
  for (std::size_t begin = 0; begin < common; begin += kChunkBytes) {
    for (std::size_t i = 0; i < from.size(); ++i) from[i] = bytes_of(sources[i].subspan(begin));
    for (std::size_t i = 0; i < into.size(); ++i) into[i] = bytes_of(rows[i].subspan(begin));
    ec_encode_data(narrow<int>(std::min(kChunkBytes, common - begin)), num_sources_, num_rows_,
                   const_cast<unsigned char*>(tables_.data()), from.data(), into.data());
  }
  for (std::size_t row = 0; row < rows.size(); ++row) {
    const auto rest = rows[row].subspan(common);
    std::fill(rest.begin(), rest.end(), std::byte{0});
    for (std::size_t i = 0; i < sources.size(); ++i) {
      add(static_cast<int>(i), sources[i].subspan(common), static_cast<int>(row), rest);
    }
  }
}

ErasureCode::ErasureCode(CodeShape shape)
    : shape_(shape),
      matrix_(code_matrix(shape)),
      encoder_(std::span(matrix_).subspan(static_cast<std::size_t>(shape.data * shape.data)),
               shape.data) {}

ErasureCode::Rebuild ErasureCode::rebuild(std::vector<int> lost) const {
  std::sort(lost.begin(), lost.end());
  TH_CHECK(std::adjacent_find(lost.begin(), lost.end()) == lost.end(), "a block is lost twice");
  TH_CHECK(lost.empty() || (lost.front() >= 0 && lost.back() < shape_.num_nodes()));
  if (narrow<int>(lost.size()) > shape_.parity) {
    throw_system("{} of the {} blocks of a stripe are lost or damaged; code {} can rebuild {}",
                 lost.size(), shape_.num_nodes(), to_string(shape_), shape_.parity);
  }
  std::vector<int> sources;
  for (int block = 0; narrow<int>(sources.size()) < shape_.data; ++block) {
    if (!std::binary_search(lost.begin(), lost.end(), block)) sources.push_back(block);
  }
  Matrix present = take_rows(matrix_, sources, shape_.data);
  Matrix inverse(present.size());
  TH_CHECK_EQ(gf_invert_matrix(present.data(), inverse.data(), shape_.data), 0);
  const Matrix rows = multiply(take_rows(matrix_, lost, shape_.data), inverse,
                               static_cast<std::size_t>(shape_.data));
  return {std::move(lost), std::move(sources), BlockTransform(rows, shape_.data)};
}

}  // namespace thimble
