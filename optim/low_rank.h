// What GaLore, APOLLO and their kin share. A matrix is stored along its longer side, so a slice is
// G [l, s] with l of the L long rows and all s short columns; a projection P [s, r] compresses the
// short side: R = G P [l, r] is local to the slice. (The reference codes' "std" side, ties right.)
#pragma once

#include "optim/adam_options.h"

namespace thimble {

/// The short side of a matrix as stored, and the rank used on it: never more than the short side.
struct LowRankShape {
  std::int64_t rows = 0, width = 0, rank = 0;  // l, s, r
};
LowRankShape low_rank_shape(const ParamInfo& info, Slice slice, std::int64_t rank);

/// Memory within a round, uninitialised.
Tensor workspace(const UpdateArgs& args, const Shape& shape, const char* what,
                 DType dtype = DType::kF32);

/// to <- own to + share other, element by element; with own = 0 `to` is not read. f32 or bf16 each;
/// nothing on a planning arena.
void mix(const Tensor& to, const Tensor& other, double own, double share);

/// A [s, r] matrix of independent N(0, 1) / sqrt(r), a function of (seed, parameter, refresh)
/// alone: the same on every slice, never stored. In `dtype`, in the arena's workspace.
Tensor random_projection(const UpdateArgs& args, const LowRankShape& shape, std::int64_t refresh,
                         DType dtype);

/// R = G P, f32 [l, r].
Tensor project(const UpdateArgs& args, const LowRankShape& shape, const Tensor& projection);

/// Q with orthonormal columns spanning those of `y`, f32 [s, r], in place. Ref: Yamamoto et al.
/// 2015, CholeskyQR2; Householder QR where that breaks down (as of dependent columns). False, y
/// untouched, if y is zero or not finite. On a planning arena only reserves.
bool orthonormalise(Arena& arena, const Tensor& y);

/// The eigenvectors of the largest `rank` eigenvalues of a symmetric matrix [n, n], as columns
/// [n, rank]; the largest entry of each is positive. False if the matrix is zero or not finite.
bool largest_eigenvectors(const float* matrix, std::int64_t n, std::int64_t rank, float* out);

/// b <- A^-1 b for a symmetric positive definite A [n, n]. False, b untouched, if A is not.
bool solve_positive(std::int64_t n, const double* a, double* b);

/// The step numbers 0, T, 2T, ... count refreshes; 0 for update number 1.
inline std::int64_t refresh_index(std::int64_t step, std::int64_t gap) {
  return (step - 1) / gap;
}

}  // namespace thimble
