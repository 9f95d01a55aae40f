// Reed-Solomon codes over the blocks of a stripe: parity of k data blocks, and any m lost blocks
// from k others. Blocks are added one by one as they arrive, so nobody holds a whole stripe. A
// block that is shorter than the stripe counts as if zeros followed it.
//
// The matrix is ISA-L's Cauchy matrix with rows and columns scaled so that the first parity row and
// the first column are ones: the first parity is the XOR of the data and, with k = 1, every parity
// is a copy. Scaling keeps every square submatrix invertible, which is what makes any m losses
// recoverable.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "checkpoint/code_shape.h"

namespace thimble {

/// The blocks that are computed (rows) from the blocks that are given (sources), by a matrix over
/// GF(2^8): parity from data, or lost blocks from present ones.
class BlockTransform {
 public:
  /// `matrix`: [num_rows, num_sources], row-major.
  BlockTransform(std::span<const unsigned char> matrix, int num_sources);

  int num_rows() const { return num_rows_; }
  int num_sources() const { return num_sources_; }

  /// Adds a source's part to one row, which starts as zeros; when all sources of the stripe are
  /// added, in any order, the row is done. A source may be shorter than the row; of a longer one
  /// only what the row has room for counts (a rebuilt block at the end of its shard). Not for the
  /// same row from two threads at once.
  void add(int source, std::span<const std::byte> block, int row, std::span<std::byte> into) const;

  /// All rows at once from all sources, which overwrites the rows: less memory traffic than adding.
  /// Sizes as for add().
  void apply(std::span<const std::span<const std::byte>> sources,
             std::span<const std::span<std::byte>> rows) const;

 private:
  const unsigned char* tables_of(int row) const;

  int num_rows_;
  int num_sources_;
  // 32 bytes for each element of the matrix, as ISA-L wants them.
  std::vector<unsigned char> tables_;
};

class ErasureCode {
 public:
  explicit ErasureCode(CodeShape shape);

  const CodeShape& shape() const { return shape_; }
  /// Rows are the parity blocks, sources the data blocks.
  const BlockTransform& encoder() const { return encoder_; }

  /// How to compute lost blocks: rows are `lost`, sources the blocks of `sources`.
  struct Rebuild {
    std::vector<int> lost;
    /// k present blocks, ascending: the first of those that are not lost.
    std::vector<int> sources;
    BlockTransform transform;
  };
  /// `lost`: indexes of blocks, data 0 .. k-1 and parity k .. k+m-1, each at most once; a block
  /// whose checksum is wrong counts as lost. SystemError if they are more than m.
  Rebuild rebuild(std::vector<int> lost) const;

 private:
  CodeShape shape_;
  // [k + m, k]: the identity, then the parity rows.
  std::vector<unsigned char> matrix_;
  BlockTransform encoder_;
};

}  // namespace thimble
