// How this process's CPU multiplies matrices of bf16.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "core/ops/kernel_table.h"

namespace thimble {

inline constexpr std::array kMatmulPaths{MatmulPath::kLibrary, MatmulPath::kF32, MatmulPath::kBf16,
                                         MatmulPath::kAmx};

/// "library", "f32", "bf16", "amx".
constexpr const char* path_name(MatmulPath path) {
  constexpr std::array kNames{"library", "f32", "bf16", "amx"};
  return kNames[static_cast<std::size_t>(path)];
}

/// Whether the CPU has the instructions, under the instruction set in use.
bool has_matmul_path(MatmulPath path);

/// What set_matmul_path() said, else fastest_path() as measured by one thread at the first call.
MatmulPath matmul_path();

/// Sets matmul_path() of the whole process; before its first matmul. Throws LogicError if the CPU
/// lacks it.
void set_matmul_path(MatmulPath path);

/// How fast the multiply instructions of a path are when they only use registers.
struct MatmulPeak {
  MatmulPath path = MatmulPath::kF32;
  double flops_per_s = 0;  // of all threads together
};

/// Measures each path of our own that the CPU has on `threads` threads at once, in the order of
/// kMatmulPaths; takes some 5 ms on
/// one thread.
std::vector<MatmulPeak> measure_matmul_peaks(int threads);

/// The path whose instructions are the fastest; a path has to beat the best before it by a tenth,
/// so that noise does not decide: between kinds of instructions lies a factor of two or more.
MatmulPath fastest_path(const std::vector<MatmulPeak>& peaks);

/// A sentence if instructions for bf16 are slower than those for f32; empty otherwise.
std::string matmul_advice(const std::vector<MatmulPeak>& peaks);

}  // namespace thimble
